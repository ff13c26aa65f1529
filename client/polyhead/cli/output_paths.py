"""Output files: checked before a command does the work whose result it will write, and written."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead.cli.command import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["check_file", "check_png", "write_npz", "writing"]


def check_png(flag: str, path: str) -> None:
    """Raise UsageError unless a path ends in .png and a file can be written there."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{flag} is {path}; expected a name that ends in .png")
    check_file(path)


def check_file(path: str) -> None:
    """Raise UsageError unless the path's folder exists and the path is not a folder itself."""
    if not (folder := Path(path).parent).is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}")
    if Path(path).is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as .npz. Raises OSError.

    The file's bytes are made in memory, because the zip file that NumPy leaves open when a disk is
    full fails once more when it is collected, and Python prints that.
    """
    import numpy as np  # here, because commands import this module for their --help

    data = BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type] # NumPy's stubs take a bool for one keyword
    Path(path).write_bytes(data.getbuffer())


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise UsageError, which names the path, where the block raises OSError.

    The error of a full disk names no file, and NumPy's error for one has no reason either.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or f"the disk may be full ({error})"
        raise UsageError(f"cannot write {path}: {reason}") from error
