"""The folder that keeps fetched versions, which several servers and workers may share.

    complete/KEY/NAME/VERSION/…   a version whose files were compared with their checksums
    partial/KEY/NAME/VERSION/…    one that is being fetched, or whose fetch was interrupted
    locks/KEY                     an empty file, locked by the process that fetches the version
    stores/STORE/NAME/VERSION     which KEY the version of a store had; see known.py

KEY is made of what the version's files must be, not of where they are from. So a version that is
changed in its store has another key, and a complete one never changes: a server loads the
files of one version, whatever is fetched meanwhile.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from polyhead_server.errors import FetchError, StartupError

try:
    import fcntl
except ImportError:  # on Windows, where processes must not share the folder
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyhead_server.limits import FetchLimits

__all__ = ["Cache"]


class Cache:
    """The folder of fetched versions. Most methods raise OSError where the file system refuses."""

    def __init__(self, folder: Path, limits: FetchLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._complete, self._partial = folder / "complete", folder / "partial"

    def make_folders(self) -> None:
        """Make the folders that there are not yet. Raises StartupError."""
        try:
            for folder in (self._folder, self._complete, self._partial, self._folder / "locks"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_writable = os.access(self._complete, os.W_OK)
        except OSError as error:
            raise StartupError(
                f"--models-cache {self._folder}: cannot be made: {error.strerror}"
            ) from error
        if not is_writable:
            raise StartupError(f"--models-cache {self._folder}: this user may not write there")

    @contextmanager
    def locked(self, key: str, check_time: Callable[[], None]) -> Iterator[None]:
        """Keep other threads and processes from fetching the version of a key.

        ``check_time`` is called while another one does, and raises an error if that takes too long.
        """
        descriptor = os.open(self._folder / "locks" / key, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not _lock(descriptor):
                check_time()
                time.sleep(self._limits.lock_poll_s)
            yield
        finally:
            os.close(descriptor)

    def complete(self, key: str) -> Path:
        """Return the folder of a key's complete version, and note that it is used now."""
        folder = self._complete / key
        with suppress(FileNotFoundError):
            os.utime(folder)
        return folder

    def partial(self, key: str) -> Path:
        """Return the folder that a version is fetched to."""
        return self._partial / key

    def publish(self, key: str) -> None:
        """Make the partial version of a key, which is locked, the complete one."""
        for file in self._partial.joinpath(key).rglob("*"):
            if file.is_file():
                _flush(file)
        shutil.rmtree(self._complete / key, ignore_errors=True)
        self._partial.joinpath(key).rename(self._complete / key)
        os.utime(self._complete / key)

    def drop_partial(self, key: str) -> None:
        """Delete the fetched part of an incomplete version."""
        shutil.rmtree(self._partial / key, ignore_errors=True)

    def make_room(self, num_bytes: int, key: str) -> None:
        """Delete leftovers of old fetches, and the least recently used versions, to make room.

        ``num_bytes``: what the version of ``key`` takes. Raises FetchError if it does not fit.
        """
        most = self._limits.max_cache_bytes
        if most and num_bytes > most:
            raise FetchError(
                f"its files have {num_bytes:,} bytes; the server keeps at most {most:,}, its "
                "--models-cache-bytes"
            )
        others = self._others(key)
        sizes = {folder: _size(folder) for folder in others}
        used = sum(sizes.values())
        for folder in others:
            fits = not most or used + num_bytes <= most
            if (not fits or self._is_left(folder)) and self._delete_unused(folder):
                used -= sizes[folder]
        if most and used + num_bytes > most:
            raise FetchError(
                f"its files have {num_bytes:,} bytes, and those of other versions that are used "
                f"{used:,}; the server keeps at most {most:,}, its --models-cache-bytes"
            )
        missing = num_bytes - _size(self.partial(key))
        if missing > (free := shutil.disk_usage(self._folder).free):
            raise FetchError(
                f"{missing:,} bytes of its files are to be fetched, and the server's disk has "
                f"{free:,} left"
            )

    def _others(self, key: str) -> list[Path]:
        """Return the folders of other keys, the least recently used first."""
        folders = [*self._complete.iterdir(), *self._partial.iterdir()]
        used_at = {}
        for folder in folders:
            with suppress(FileNotFoundError):  # another process deleted it
                used_at[folder] = folder.stat().st_mtime
        return sorted((f for f in used_at if f.name != key), key=used_at.__getitem__)

    def _is_left(self, folder: Path) -> bool:
        """Whether a folder is left over from an interrupted fetch that was not resumed."""
        return folder.parent == self._partial and (
            time.time() - folder.stat().st_mtime > self._limits.partial_kept_s
        )

    def _delete_unused(self, folder: Path) -> bool:
        """Delete a version unless it may be in use, and return whether it is gone."""
        descriptor = os.open(self._folder / "locks" / folder.name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(descriptor):
                return False
            if time.time() - folder.stat().st_mtime < self._limits.kept_s:
                return False
            shutil.rmtree(folder)
        except FileNotFoundError:  # another process deleted it
            return True
        finally:
            os.close(descriptor)
        return True


def _lock(descriptor: int) -> bool:
    """Lock a file, until it is closed, unless another one has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process deleted it
            size += file.stat().st_size if file.is_file() else 0
    return size


def _flush(file: Path) -> None:
    """Flush a file to disk, so that a power cut cannot leave it without its content."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
