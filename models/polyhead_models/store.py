"""Writes models into a repository: ``<repository>/<name>/<version>/model.onnx``.

Triton reads the same layout. There model.onnx may be a folder as well; polyhead does not write one.
The checksums of a version's files lie beside them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from polyhead_models.checksums import write_checksums
from polyhead_models.names import check_model_name, is_utf8

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

__all__ = ["StoreError", "check_repository", "write_model", "write_version"]

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "model.onnx.data"
"""The weights of a model whose file would be too large with them."""
TOKENIZER_FILE = "tokenizer.json"
MAX_VERSION = 2**63 - 1
"""The contract's versions are int64."""


class StoreError(ValueError):
    """A model that cannot be written to the requested repository or version."""


def check_repository(repository: Path) -> None:
    """Raise StoreError unless a server can open the models of a repository with this path."""
    if not is_utf8(repository):
        raise StoreError(
            f"{repository} is not UTF-8, and ONNX Runtime opens no such path; choose another "
            "folder, or name it by a link or a relative path that is UTF-8"
        )


def write_model(
    repository: str | PathLike[str],
    name: str,
    model: bytes,
    version: int | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a model's file into a repository, with its checksum, and return the file's path.

    Without ``version`` the model becomes the newest: one above the highest in the repository, or
    1. The write is atomic: a concurrent scan sees the complete new version or does not see it at
    all. A version that is replaced is missing for a moment.

    Raises ModelNameError; StoreError if the version is not a positive int64, if it exists and
    ``overwrite`` is not set, or if the path is not UTF-8; and OSError if the file system refuses.
    """

    def write(folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(model)

    return write_version(repository, name, write, version, overwrite=overwrite) / MODEL_FILE


def write_version(
    repository: str | PathLike[str],
    name: str,
    write: Callable[[Path], object],
    version: int | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a version of several files into a repository, and return the version's folder.

    ``write`` gets an empty folder, and writes the files into it. Versions, checksums, atomicity and
    errors are those of write_model.
    """
    check_model_name(name)
    check_repository(Path(repository))
    folder = Path(repository) / name
    if version is None:
        version = _newest_version(folder) + 1
    if not 1 <= version <= MAX_VERSION:
        raise StoreError(f"version is {version}; it must be between 1 and {MAX_VERSION}")
    folder.mkdir(parents=True, exist_ok=True)
    destination = folder / str(version)
    # The leading dot hides the staging folder from scans. The folder is on the destination's file
    # system, so that renaming is atomic.
    with TemporaryDirectory(dir=folder, prefix=".staging-") as staging:
        # only the name is used, because Python versions differ in whether the path is absolute
        staged = folder / Path(staging).name / str(version)
        staged.mkdir()
        write(staged)
        write_checksums(staged)
        for file in staged.iterdir():
            _flush(file)
        if overwrite and destination.exists():
            destination.rename(Path(staging) / "replaced")
        _rename_new(staged, destination)
    return destination


def _newest_version(folder: Path) -> int:
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return max((int(name) for name in names if re.fullmatch(r"[0-9]+", name)), default=0)


def _flush(file: Path) -> None:
    """Flush a file to disk, so that a power cut cannot leave it without its content."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _rename_new(staged: Path, destination: Path) -> None:
    """Move a version's folder to its destination, unless that version exists."""
    try:
        staged.rename(destination)
    except OSError as error:
        # checked afterwards, because two concurrent exports could both pass an earlier check
        if destination.exists():
            raise StoreError(
                f"{destination} exists already; choose another version, omit the version to "
                "get the next one, or allow overwriting"
            ) from error
        raise
