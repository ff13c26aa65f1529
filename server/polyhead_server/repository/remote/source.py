"""The models of a store: its last listing, and the versions that were fetched from it."""

from __future__ import annotations

import errno
import logging
from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.errors import FetchError, StartupError
from polyhead_server.repository.folders import ModelFolder
from polyhead_server.repository.load_threads import FetchThreads
from polyhead_server.repository.remote.cache import Cache
from polyhead_server.repository.remote.fetch import fetch_version
from polyhead_server.repository.remote.known import KnownVersions
from polyhead_server.repository.remote.listing import StoredModel, parse_listing
from polyhead_server.repository.remote.questions import StoreError
from polyhead_server.repository.remote.store import Store
from polyhead_server.repository.remote.transfer import Transfer

if TYPE_CHECKING:
    from pathlib import Path

    from polyhead_server.limits import FetchLimits

__all__ = ["StoreSource"]

_LOG = logging.getLogger("polyhead.repository")
_MAX_ABANDONED = 4


class StoreSource:
    """A repository that lies in a store. Versions are fetched when they are to be loaded."""

    def __init__(self, url: str, cache: Path, limits: FetchLimits) -> None:
        self._store = Store(url, limits.answer_s)
        self._cache = Cache(cache, limits)
        self._known_versions = KnownVersions(cache, url)
        self._limits = limits
        self._threads = FetchThreads(limits.timeout_s, _MAX_ABANDONED)
        self._models: dict[str, StoredModel] | None = None
        """The last listing; None if there was none."""
        self.display_name = self._store.display_name
        self.watch_interval_s = limits.watch_interval_s

    def read_all(self) -> dict[str, ModelFolder]:
        """List the models of the store. Raises StartupError.

        If the first listing fails, the versions are returned that were fetched before.
        """
        self._cache.make_folders()
        try:
            self._models = self._list()
        except StoreError as error:
            if self._models is None and (cached := self._cached_folders()):
                _LOG.error(
                    "store not listed: versions that were fetched before are served",
                    extra={"store": self.display_name, "error": error},
                )
                return cached
            raise StartupError(f"--models {self.display_name}: cannot be listed: {error}") from None
        self._known_versions.forget_all_but(
            {name: each.versions for name, each in self._models.items()}
        )
        return {name: _folder(model) for name, model in self._models.items()}

    def read_model(self, name: str) -> ModelFolder:
        """List the versions of one model. Raises OSError."""
        try:
            models = self._list(name)
        except (StoreError, StartupError) as error:
            _LOG.warning("store not listed: %s", error, extra={"model": name})
            raise OSError(errno.EIO, "the store cannot be listed") from None
        self._models = (self._models or {}) | models
        return _folder(models.get(name, StoredModel()))

    def versions(self) -> dict[str, list[int]]:
        """Return the versions of each model, as listed last."""
        return {name: sorted(model.versions) for name, model in (self._models or {}).items()}

    async def fetch(self, name: str, version: int) -> Path:
        """Fetch a version unless the cache has it. Raises ModelFileError and FetchError."""
        return await self._threads.run(partial(self._fetch, name, version))

    def _fetch(self, name: str, version: int) -> Path:
        if self._models is None:
            return self._cache.complete(self._known_versions.keys()[name][version]) / name
        model = self._models.get(name)
        if model is None or version not in model.versions:
            raise FetchError("the store does not list it any more")
        transfer = Transfer(self._store, self._limits, name, version)
        folder = fetch_version(transfer, self._cache, name, version, model)
        self._known_versions.note(name, version, folder.parent.name)
        return folder

    def _list(self, below: str = "") -> dict[str, StoredModel]:
        files = self._store.find(below)
        if len(files) > (most := self._limits.max_listed_files):
            raise StoreError(f"it has {len(files):,} files; at most {most:,} are taken")
        return parse_listing(files)

    def _cached_folders(self) -> dict[str, ModelFolder]:
        """Return the versions that were fetched before, as if their keys were their files."""
        return {
            name: ModelFolder({version: ((key,),) for version, key in sorted(keys.items())})
            for name, keys in self._known_versions.keys().items()
        }


def _folder(model: StoredModel) -> ModelFolder:
    return ModelFolder({version: model.states(version) for version in sorted(model.versions)})
