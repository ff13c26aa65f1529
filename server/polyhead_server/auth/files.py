"""Files of certificates, keys and tokens: how they are read, and when they have changed."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["CredentialsError", "FileChanges", "read_file"]

_MAX_BYTES = 1 << 20


class CredentialsError(StartupError):
    """A file of certificates, keys or tokens cannot be used; the message names flag and fix."""


def read_file(flag: str, path: Path, *, others_may_write: bool = True) -> bytes:
    """Read a regular file of up to 1 MiB that ``flag`` names. Raises CredentialsError."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CredentialsError(f"{flag} {path} is not a regular file")
            if not others_may_write and os.name == "posix" and status.st_mode & stat.S_IWOTH:
                raise CredentialsError(
                    f"{flag} {path} can be written by every user of this machine: chmod o-w it"
                )
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CredentialsError(f"{flag} {path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise CredentialsError(f"{flag} {path} is larger than {_MAX_BYTES:,} bytes")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe too, for whose writer open() would wait."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class FileChanges:
    """Detects changed files, once nobody writes them any more.

    A state is stable if two checks in a row found it. So a file that is being written, or a key
    that is written a moment after its certificate, is not read too early. Links are followed, so a
    change of the folder that a link leads through is a change of the file, as in Kubernetes.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._last_state = self._last_reported = self._read_state()
        self.is_stable = True
        """Whether the last two checks found the same state."""

    def check(self) -> bool:
        """Return whether the files have a new stable state. Each new state is reported once."""
        state = self._read_state()
        self.is_stable, self._last_state = state == self._last_state, state
        if not self.is_stable or state == self._last_reported:
            return False
        self._last_reported = state
        return True

    def _read_state(self) -> tuple[object, ...]:
        return tuple(map(_identity, self._paths))


def _identity(path: Path) -> object:
    """Return a value that changes when a file is written or replaced."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
