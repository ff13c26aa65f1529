"""Checks the files of a repository before they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checksums import ChecksumError, check_files
from polyhead_models.store import MODEL_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_file", "check_inside", "exists", "has_checksums", "is_dangling"]


def check_file(path: Path, name: str, expected: str, max_bytes: int) -> None:
    """Raise ModelFileError unless a path is a file that can be read; pipes are no files.

    ``max_bytes``: most bytes that it may hold.
    """
    if is_dangling(path):
        raise ModelFileError(f"its {name} is a link to a file that does not exist")
    try:
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise ModelFileError(f"its {name} {problem}; expected {expected}")
        if (size := path.stat().st_size) > max_bytes:
            raise ModelFileError(f"its {name} has {size:,} bytes; at most {max_bytes:,} are read")
        path.open("rb").close()
    except OSError as error:
        raise ModelFileError(f"its {name} cannot be read: {error.strerror}") from error


def has_checksums(folder: Path) -> bool:
    """Whether a graph's folder has checksums, which its files are then compared with.

    Raises ModelFileError if they differ.
    """
    try:
        return check_files(folder, (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE))
    except ChecksumError as error:
        raise ModelFileError(str(error)) from error


def check_inside(root: Path, path: Path, name: str) -> None:
    """Raise ModelFileError if a path leads out of a repository, by links."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise ModelFileError(
            f"its {name} is a link that leads out of the repository; copy what it leads to"
        )


def exists(path: Path) -> bool:
    """Whether there is anything at a path, such as a link to nothing, or may be."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be known, so reading it says what is wrong
        return True
    return True


def is_dangling(path: Path) -> bool:
    """Whether a path is a symbolic link to nothing, or to itself."""
    try:
        return path.is_symlink() and not path.exists()
    except OSError:
        return False
