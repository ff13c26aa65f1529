"""Loads, reloads and unloads the models of a repository while others are served.

One change is made after the other. Threads read files and make models, and the event loop then
publishes what they made, if its caller still waits for it. So a load that was given up changes
nothing, however late its thread ends, and the last change that was answered holds.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.errors import (
    ModelFileError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    StartupError,
)
from polyhead_server.repository.load_threads import LoadThreads
from polyhead_server.repository.model_loader import LoadedVersions, ModelChange, ModelLoader
from polyhead_server.repository.repository import UnavailableModel, check_name, unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from polyhead_server.engine.runtime import Engine
    from polyhead_server.limits import LoadLimits
    from polyhead_server.repository.folders import FileStates, ModelFolder
    from polyhead_server.repository.repository import Repository
    from polyhead_server.repository.source import ModelSource

__all__ = ["ModelLoads"]

_LOG = logging.getLogger("polyhead.repository")
_RETRY_AFTER_MS = 1000


class ModelLoads:
    """Changes the models that a repository serves."""

    def __init__(
        self,
        repository: Repository,
        source: ModelSource,
        engine: Engine,
        limits: LoadLimits,
        *,
        all_versions: bool,
    ) -> None:
        """``all_versions``: see ModelLoader."""
        self._repository = repository
        self._source = source
        self._engine = engine
        self._limits = limits
        self._all_versions = all_versions
        self._threads = LoadThreads(limits.timeout_s, limits.max_abandoned)
        self._loader = ModelLoader(source, engine, self._threads, limits, all_versions=all_versions)
        self._changing = asyncio.Lock()
        self._num_changes = 0
        """Changes that are made or wait."""
        self._files: dict[str, dict[int, FileStates]] = {}
        """Of each model, the files of each version when it was last loaded."""
        self._folders: dict[str, ModelFolder] | None = None
        """The folders from which all models were loaded."""
        self._unfetched: set[str] = set()
        """Models of which a version could not be fetched, and may be later."""

    async def load_all(self) -> None:
        """Load every model of the folder, at the start.

        A model that cannot be loaded is kept as unavailable, and the others serve. Raises
        StartupError if the folder has no model, or if no model can be loaded.
        """
        async with self._one_change():
            try:
                folders = await self._threads.run(self._source.read_all)
            except ModelFileError as error:
                raise StartupError(f"--models {self._source.display_name}: {error}") from error
            self._folders = folders
            loaded: dict[str, LoadedVersions] = {}
            num_models = self._num_models(folders)
            for name, folder in folders.items():
                if folder.versions:
                    loaded[name] = await self._loader.load(
                        name, folder, num_models, served={}, unchanged=LoadedVersions()
                    )
            self._check_start(loaded)
            self._publish(loaded)
        threads = self._engine.threads_per_model(num_models)
        if threads < self._engine.threads:
            _LOG.info(
                "runs have %d threads instead of %d, because %d models each keep a pool of their "
                "own; --spinning on gives all models one pool",
                threads,
                self._engine.threads,
                num_models,
            )

    async def load(self, name: str) -> None:
        """Load or reload one model.

        The versions served before are served until the new ones are loaded, and go on being served
        if none can be. Raises ModelNotFoundError, ModelUnavailableError, OverloadedError, and what
        Repository.find raises.
        """
        check_name(name, "model_name")
        async with self._one_change():
            folder = await self._read_folder(name)
            others = sum(model.name != name for model in self._repository.loaded())
            num_models = others + self._num_models({name: folder})
            loaded = await self._loader.load(
                name, folder, num_models, served={}, unchanged=LoadedVersions()
            )
            if not loaded.can_run:
                raise unavailable(loaded.versions[max(folder.versions)])
            self._publish({name: loaded})

    async def unload(self, name: str) -> None:
        """Stop serving a model; requests that run finish. Raises what find raises."""
        async with self._one_change():
            self._repository.unload(name)

    async def reload(self, *, retry_failed: bool = True) -> list[ModelChange]:
        """Load new and changed versions of the folder, and stop serving deleted ones.

        A version that cannot be loaded leaves the one served before. Models that a caller unloaded
        stay so. ``retry_failed``: load those again that failed, even if their files are the same.
        Raises ModelUnavailableError if the folder cannot be read, and OverloadedError.
        """
        async with self._one_change():
            folders = await self._read_folders()
            changes = self._remove_all_but(folders)
            num_models = self._num_models(folders)
            for name, folder in folders.items():
                if not folder.versions or self._repository.is_unloaded(name):
                    continue
                loaded = await self._loader.load(
                    name,
                    folder,
                    num_models,
                    served=self._repository.versions(name),
                    unchanged=self._unchanged(name, folder, retry_failed=retry_failed),
                )
                if loaded.changes:
                    self._publish({name: loaded})
                    changes += loaded.changes
        for change in changes:
            fields = {"model": change.name, "version": change.version, "outcome": change.outcome}
            _LOG.info("model reloaded", extra=fields | {"reason": change.reason})
        return changes

    async def watch(self) -> None:
        """Reload whenever files have changed and nobody is still writing them, for ever.

        Versions that could not be fetched are tried again at every check.
        """
        applied = states = self._folders
        while True:
            await asyncio.sleep(self._source.watch_interval_s)
            previous, states = states, await self._read_states()
            if states == previous and (states != applied or self._unfetched):
                applied = states
                with suppress(ModelUnavailableError, OverloadedError):  # logged
                    await self.reload(retry_failed=False)

    async def _read_states(self) -> dict[str, ModelFolder] | None:
        try:
            return await self._threads.run(self._source.read_all)
        except (StartupError, ModelFileError):
            return None

    @asynccontextmanager
    async def _one_change(self) -> AsyncIterator[None]:
        """Wait for the changes before this one. Raises OverloadedError if too many wait."""
        if self._num_changes > self._limits.max_waiting:
            raise OverloadedError(
                f"{self._num_changes} changes of models wait for each other; try again when they "
                "are done",
                _RETRY_AFTER_MS,
            )
        self._num_changes += 1
        try:
            async with self._changing:
                yield
        finally:
            self._num_changes -= 1

    def _publish(self, loaded: Mapping[str, LoadedVersions]) -> None:
        self._repository.publish(
            {name: each.versions for name, each in loaded.items()},
            {name: each.problems for name, each in loaded.items()},
        )
        for name, each in loaded.items():
            self._files[name] = each.files
            (self._unfetched.add if each.unfetched else self._unfetched.discard)(name)

    def _num_models(self, folders: Mapping[str, ModelFolder]) -> int:
        """Return how many models are served if all of ``folders`` can be loaded."""
        counts = [len(folder.versions) for folder in folders.values()]
        return max(1, sum(counts) if self._all_versions else sum(map(bool, counts)))

    def _check_start(self, loaded: Mapping[str, LoadedVersions]) -> None:
        if not loaded:
            raise StartupError(
                f"--models {self._source.display_name}: no model there; expected "
                "<name>/<version>/model.onnx, as 'polyhead export' writes"
            )
        if not any(each.can_run for each in loaded.values()):
            models = [model for each in loaded.values() for model in each.versions.values()]
            reasons = [f"{m.name}: {m.reason}" for m in models if isinstance(m, UnavailableModel)]
            source_name = self._source.display_name
            raise StartupError(
                f"--models {source_name}: no model there can be loaded ({'; '.join(reasons)})"
            )

    async def _read_folder(self, name: str) -> ModelFolder:
        """Read a model's folder. Raises ModelUnavailableError and ModelNotFoundError."""
        try:
            folder = await self._threads.run(partial(self._source.read_model, name))
        except (OSError, ModelFileError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ModelUnavailableError(
                f"model {name!r} cannot be read: {reason}", "MODEL_INVALID"
            ) from error
        if not folder.versions:
            raise ModelNotFoundError(
                f"no model {name!r} in the repository: expected {name}/<version>/model.onnx there",
                "MODEL_NOT_FOUND",
            )
        return folder

    async def _read_folders(self) -> dict[str, ModelFolder]:
        """Read the folder of a repository that is served. Raises ModelUnavailableError."""
        folders: dict[str, ModelFolder] = {}
        problem = "it has no model"
        try:
            folders = await self._threads.run(self._source.read_all)
        except (StartupError, ModelFileError) as error:
            problem = str(error)
        if not any(folder.versions for folder in folders.values()):  # such as a lost volume
            _LOG.error("repository not reloaded: %s", problem)
            raise ModelUnavailableError(
                "the repository cannot be read, or has no model: the server's log says more, and "
                "what was served before is served on",
                "REPOSITORY_UNREADABLE",
            )
        return folders

    def _remove_all_but(self, folders: Mapping[str, ModelFolder]) -> list[ModelChange]:
        changes = []
        for name in sorted(self._repository.names() - folders.keys()):
            versions = self._repository.versions(name)
            changes += [ModelChange(name, version, "removed") for version in sorted(versions)]
            self._repository.publish({name: {}}, {})
            self._files.pop(name, None)
            self._unfetched.discard(name)
        return changes

    def _unchanged(self, name: str, folder: ModelFolder, *, retry_failed: bool) -> LoadedVersions:
        """Return the versions whose files are those that were loaded."""
        unchanged, loaded_files = LoadedVersions(), self._files.get(name, {})
        for version, model in self._repository.versions(name).items():
            problem = self._repository.problem(name, version)
            if loaded_files.get(version) != folder.versions.get(version) or (
                problem and retry_failed
            ):
                continue
            unchanged.versions[version] = model
            if problem:
                unchanged.problems[version] = problem
        return unchanged
