"""The sources of a repository's models: a folder, or a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.folders import read_model_folder, read_repository
from polyhead_server.repository.layout import versions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

from polyhead_server.repository.folders import ModelFolder

__all__ = ["FolderSource", "ModelSource"]


class ModelSource(Protocol):
    """A repository's models, wherever they lie. Threads call all but fetch, which waits for one."""

    display_name: str
    """The value of --models, as messages may show it."""
    watch_interval_s: float
    """Seconds between two checks, with --watch."""

    def read_all(self) -> dict[str, ModelFolder]:
        """Read which models and versions there are, by the models' names. Raises StartupError."""

    def read_model(self, name: str) -> ModelFolder:
        """Read which versions of a model there are. Raises OSError."""

    def versions(self) -> Mapping[str, Sequence[int]]:
        """Return the versions of each model without asking another machine. Raises OSError."""

    async def fetch(self, name: str, version: int) -> Path:
        """Return a folder with the name of the model that has the version's folder.

        Raises ModelFileError if the version may not be used, and FetchError if it cannot be had.
        """


class FolderSource:
    """A repository that is a folder."""

    def __init__(self, root: Path, watch_interval_s: float = LoadLimits.watch_interval_s) -> None:
        self._root = root
        self.display_name = str(root)
        self.watch_interval_s = watch_interval_s

    def read_all(self) -> dict[str, ModelFolder]:
        """Read the folder of each model. Raises StartupError."""
        return read_repository(self._root)

    def read_model(self, name: str) -> ModelFolder:
        """Read the folder of one model. Raises OSError."""
        return read_model_folder(self._root / name)

    def versions(self) -> dict[str, list[int]]:
        """Return the versions in the folder of each model. Raises OSError."""
        versions_by_name = {}
        for folder in sorted(self._root.iterdir()):
            try:
                check_model_name(folder.name)
                if versions := versions_of(folder):
                    versions_by_name[folder.name] = versions
            except (OSError, ModelNameError):  # loading reports the problem
                continue
        return versions_by_name

    async def fetch(self, name: str, version: int) -> Path:  # noqa: ARG002 - one folder has all
        """Return the folder of a model, which is there already."""
        return self._root / name
