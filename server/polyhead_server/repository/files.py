"""Says what is wrong with a file of a repository before it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_file", "exists", "is_dangling"]


def check_file(path: Path, name: str, expected: str) -> None:
    """Raise ModelFileError unless a path is a file that can be read; pipes are no files."""
    if is_dangling(path):
        raise ModelFileError(f"its {name} is a link to a file that does not exist")
    try:
        if not path.is_file():
            problem = "is not a file" if path.exists() else "does not exist"
            raise ModelFileError(f"its {name} {problem}; expected {expected}")
        path.open("rb").close()
    except OSError as error:
        raise ModelFileError(f"its {name} cannot be read: {error.strerror}") from error


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
