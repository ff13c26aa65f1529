"""Which models, versions and files a store's listing has: NAME/VERSION/FILE, as in a folder.

A caller who may write to the store chooses the names in it. So a path counts only if each part is
the name of a model, a version or a plain file. All other paths are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.repository.layout import is_version
from polyhead_server.repository.triton_config import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_server.repository.folders import FileStates

__all__ = ["StoredFile", "StoredModel", "StoredVersion", "parse_listing"]

_FILE_NAME = re.compile(r"(?!\.)[^\x00-\x1f\x7f/\\:]{1,255}")
_STATE_KEYS = ("ETag", "etag", "md5Hash", "blob_id", "lfs", "checksum", "generation", "version_id")
_TIME_KEYS = ("LastModified", "last_modified", "mtime", "updated", "created", "ino")
"""Fields that change with a file's content, by the names of fsspec's file systems."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store, as listed."""

    path: str
    """Its path below the store's URL."""
    size: int
    state: str
    """Differs once the file was changed."""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """The files of a version."""

    files: dict[str, StoredFile] = field(default_factory=dict)
    """By their path in the version's folder: NAME, or FOLDER/NAME."""

    def folders(self) -> dict[str, dict[str, StoredFile]]:
        """Return the files by their names, of each folder; "": the version's own."""
        by_folder: dict[str, dict[str, StoredFile]] = defaultdict(dict)
        for path, file in self.files.items():
            folder, _, name = path.rpartition("/")
            by_folder[folder][name] = file
        return by_folder


@dataclass(slots=True)
class StoredModel:
    """The files of a model in a store."""

    config: StoredFile | None = None
    """Its config.pbtxt."""
    versions: dict[int, StoredVersion] = field(default_factory=lambda: defaultdict(StoredVersion))

    def states(self, version: int) -> FileStates:
        """Return the states of the files of a version."""
        files = [*self.versions[version].files.values(), *filter(None, [self.config])]
        return tuple(sorted((file.path, file.size, file.state) for file in files))


def parse_listing(by_folder: Mapping[str, Mapping[str, Any]]) -> dict[str, StoredModel]:
    """Parse fsspec's description of each file, by its path, into models by their names."""
    models: dict[str, StoredModel] = defaultdict(StoredModel)
    for path, info in sorted(by_folder.items()):
        file = _file(path, info)
        match path.split("/"):
            case [name, str(config)] if file and config == CONFIG_FILE and _is_model(name):
                models[name].config = file
            case [name, version, *names] if file and _is_model(name) and is_version(version):
                if 1 <= len(names) <= 2 and all(map(_FILE_NAME.fullmatch, names)):
                    models[name].versions[int(version)].files["/".join(names)] = file
    return {name: model for name, model in models.items() if model.versions}


def _file(path: str, info: Mapping[str, Any]) -> StoredFile | None:
    """Return a file; None for anything else, such as a link."""
    size = info.get("size")
    if info.get("type") != "file" or info.get("islink") or not isinstance(size, int) or size < 0:
        return None
    return StoredFile(path, size, _state(info))


def _state(info: Mapping[str, Any]) -> str:
    keys = [key for key in _STATE_KEYS if info.get(key)] or [k for k in _TIME_KEYS if info.get(k)]
    return " ".join(f"{key}={info[key]}" for key in keys)


def _is_model(name: str) -> bool:
    try:
        check_model_name(name)
    except ModelNameError:
        return False
    return True
