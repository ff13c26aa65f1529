"""Which versions a store had when they were fetched, so that a server can start without the store.

The cache has a file for each: stores/STORE/NAME/VERSION. Its content is the key of the version's
files in the cache, and STORE is made of the store's URL.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from polyhead_models.names import ModelNameError, check_model_name
from polyhead_server.repository.layout import is_version

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["KnownVersions"]

_KEY = re.compile(r"[0-9a-f]{32}")


class KnownVersions:
    """The versions that were fetched from one store."""

    def __init__(self, cache: Path, url: str) -> None:
        self._folder = cache / "stores" / hashlib.sha256(url.encode()).hexdigest()[:32]

    def note(self, name: str, version: int, key: str) -> None:
        """Note the key of a version. A file system that refuses is not an error."""
        with suppress(OSError):
            folder = self._folder / name
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=folder, prefix=".", delete=False) as stream:
                stream.write(key)
            Path(stream.name).replace(folder / str(version))

    def forget_all_but(self, listed: Mapping[str, Container[int]]) -> None:
        """Forget the versions that the store does not list any more."""
        for name, keys in self.keys().items():
            for version in keys:
                if version not in listed.get(name, ()):
                    with suppress(OSError):
                        self._folder.joinpath(name, str(version)).unlink()

    def keys(self) -> dict[str, dict[int, str]]:
        """Return the keys of the versions, by the models' names."""
        keys_by_name: dict[str, dict[int, str]] = {}
        with suppress(OSError, UnicodeDecodeError, ModelNameError):
            for folder in sorted(self._folder.iterdir()):
                check_model_name(folder.name)
                for file in filter(lambda file: is_version(file.name), folder.iterdir()):
                    if _KEY.fullmatch(key := file.read_text("ascii")):
                        keys_by_name.setdefault(folder.name, {})[int(file.name)] = key
        return keys_by_name
