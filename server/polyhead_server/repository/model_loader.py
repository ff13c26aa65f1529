"""Loads the versions of one model, and selects the ones to serve."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from polyhead_server.errors import FetchError, ModelFileError
from polyhead_server.repository.loading import load_version
from polyhead_server.repository.repository import UnavailableModel

if TYPE_CHECKING:
    from polyhead_server.engine.runtime import Engine
    from polyhead_server.limits import LoadLimits
    from polyhead_server.repository.folders import FileStates, ModelFolder
    from polyhead_server.repository.load_threads import LoadThreads
    from polyhead_server.repository.repository import AnyModel, Versions
    from polyhead_server.repository.source import ModelSource

__all__ = ["LoadedVersions", "ModelChange", "ModelLoader"]

_LOG = logging.getLogger("polyhead.repository")


class ModelChange(NamedTuple):
    """The change of one version of a model."""

    name: str
    version: int
    outcome: Literal["loaded", "removed", "failed"]
    reason: str = ""
    """Why it failed."""


@dataclass(slots=True)
class LoadedVersions:
    """The result of loading a model. It is not served yet."""

    versions: Versions = field(default_factory=dict)
    """The versions to serve."""
    problems: dict[int, str] = field(default_factory=dict)
    """Why versions that are served go on as they were loaded before."""
    files: dict[int, FileStates] = field(default_factory=dict)
    """The files that each version was loaded from, whether or not that succeeded."""
    unfetched: set[int] = field(default_factory=set)
    """Versions that could not be fetched, and may be later."""
    changes: list[ModelChange] = field(default_factory=list)

    @property
    def can_run(self) -> bool:
        """Whether any version can run."""
        return any(map(_runs, self.versions.values()))


class ModelLoader:
    """Loads models of a source. It does not change the served models."""

    def __init__(
        self,
        source: ModelSource,
        engine: Engine,
        threads: LoadThreads,
        limits: LoadLimits,
        *,
        all_versions: bool,
    ) -> None:
        """``all_versions``: load all versions of a model, or the newest one that can be loaded."""
        self._source = source
        self._engine = engine
        self._threads = threads
        self._limits = limits
        self._all_versions = all_versions

    async def load(
        self,
        name: str,
        folder: ModelFolder,
        num_models: int,
        *,
        served: Versions,
        unchanged: LoadedVersions,
    ) -> LoadedVersions:
        """Load the wanted versions of a model.

        ``num_models``: how many models the process serves with these. ``served``: the versions that
        are served now, and go on being served if none can be loaded. ``unchanged``: versions that
        need not be loaded again.
        """
        loaded = LoadedVersions()
        for version in sorted(folder.versions, reverse=True):
            if version in unchanged.versions:
                model = unchanged.versions[version]
                if version in unchanged.problems:
                    loaded.problems[version] = unchanged.problems[version]
            else:
                model = await self._load_version(name, version, num_models, loaded)
                loaded.changes.append(_change(model))
                before = served.get(version)
                if isinstance(model, UnavailableModel) and before is not None and _runs(before):
                    loaded.problems[version] = f"{model.reason}; it is served as loaded before"
                    model = before
            if version not in loaded.unfetched:
                loaded.files[version] = folder.versions[version]
            loaded.versions[version] = model
            if not self._all_versions and _runs(model):
                break  # an older version serves only if no newer one can be loaded
        if not loaded.can_run:
            loaded.versions |= {n: model for n, model in served.items() if _runs(model)}
        removed = served.keys() - loaded.versions.keys()
        loaded.changes += [ModelChange(name, version, "removed") for version in sorted(removed)]
        return loaded

    async def _load_version(
        self, name: str, version: int, num_models: int, loaded: LoadedVersions
    ) -> AnyModel | UnavailableModel:
        fields = {"model": name, "version": version}
        _LOG.debug("loading", extra=fields)
        try:
            folder = await self._source.fetch(name, version)
            load = partial(load_version, folder, version, self._engine, num_models, self._limits)
            model = await self._threads.run(load)
        except FetchError as error:
            loaded.unfetched.add(version)
            _LOG.warning("model unavailable: %s", error, extra=fields)
            return UnavailableModel(name, version, str(error))
        except ModelFileError as error:
            _LOG.warning("model unavailable: %s", error, extra=fields, exc_info=True)
            return UnavailableModel(name, version, str(error))
        _LOG.info("model loaded", extra={**fields, "provider": model.providers[0]})
        return model


def _runs(model: AnyModel | UnavailableModel) -> bool:
    return not isinstance(model, UnavailableModel)


def _change(model: AnyModel | UnavailableModel) -> ModelChange:
    if isinstance(model, UnavailableModel):
        return ModelChange(model.name, model.version, "failed", model.reason)
    return ModelChange(model.name, model.version, "loaded")
