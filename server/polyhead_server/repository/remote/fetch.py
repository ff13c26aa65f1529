"""Fetches the files of a version from a store to the cache, and compares their checksums."""

from __future__ import annotations

import errno
import hashlib
from typing import TYPE_CHECKING

from polyhead_models.checksums import CHECKSUMS_FILE, ChecksumError, check_files, write_checksums
from polyhead_server.errors import FetchError, ModelFileError, quoted
from polyhead_server.repository.remote.version_files import VersionFiles, read_version_files

if TYPE_CHECKING:
    from pathlib import Path

    from polyhead_server.repository.remote.cache import Cache
    from polyhead_server.repository.remote.listing import StoredFile, StoredModel
    from polyhead_server.repository.remote.transfer import Transfer

__all__ = ["fetch_version"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def fetch_version(
    transfer: Transfer, cache: Cache, name: str, version: int, model: StoredModel
) -> Path:
    """Return the model's folder in the cache, whose parent has the version's key as its name.

    The files are fetched unless the cache has them. Raises ModelFileError if they may not be used,
    and FetchError if they cannot be had.
    """
    expected = read_version_files(transfer, version, model)
    key = expected.key(name)
    try:
        with cache.locked(key, transfer.check_time):
            complete = cache.complete(key) / name
            if not _is_intact(complete, version, expected):
                cache.make_room(expected.num_bytes, key)
                _fetch_all(transfer, cache.partial(key) / name, expected)
                cache.publish(key)
                transfer.end()
            return complete
    except OSError as error:
        if error.errno in _DISK_FULL:
            cache.drop_partial(key)
        raise FetchError(
            f"its files cannot be kept in the server's --models-cache: {error.strerror}"
        ) from error


def _is_intact(folder: Path, version: int, expected: VersionFiles) -> bool:
    """Whether a folder of the cache has all files of a version, undamaged."""
    for path, content in expected.contents.items():
        file = folder / path
        if not file.is_file() or file.read_bytes() != content:
            return False
    folders = {(folder / path).parent for path in expected.files}
    try:
        return all([*map(check_files, folders)]) and folder.joinpath(str(version)).is_dir()
    except ChecksumError:
        return False


def _fetch_all(transfer: Transfer, root: Path, expected: VersionFiles) -> None:
    """Fetch all files of a version into the model's folder."""
    transfer.begin(expected.num_bytes)
    folders = {(root / path).parent for path in (*expected.files, *expected.contents)}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path, content in expected.contents.items():
        (root / path).write_bytes(content)
        transfer.take(len(content))
    for path, (file, checksum) in expected.files.items():
        if not checksum:
            (root / path).unlink(missing_ok=True)
        _fetch_file(transfer, file, checksum, root / path)
    for folder in {(root / path).parent for path in expected.files}:
        if not (folder / CHECKSUMS_FILE).exists():  # so that damage is noticed later on
            write_checksums(folder)


def _fetch_file(transfer: Transfer, file: StoredFile, checksum: str, path: Path) -> None:
    """Fetch a file from where an interrupted fetch ended. Raises ModelFileError if it differs."""
    is_resumed = path.exists()
    actual = _append(transfer, file, path)
    if checksum and actual != checksum and is_resumed:
        path.unlink()  # what was there before may be the damaged part
        actual = _append(transfer, file, path)
    if checksum and actual != checksum:
        path.unlink()
        raise ModelFileError(
            f"its {quoted(path.name)} differs from its checksum in {CHECKSUMS_FILE}: it was "
            "changed while it was fetched, or is damaged in the store"
        )


def _append(transfer: Transfer, file: StoredFile, path: Path) -> str:
    """Fetch the missing end of a file, and return the checksum of the whole file."""
    chunk = transfer.limits.chunk_bytes
    digest = hashlib.sha256()
    with path.open("ab+") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        stream.seek(0)
        while part := stream.read(chunk):
            digest.update(part)
        began_at = stream.tell()
        transfer.take(began_at)
        for start in range(began_at, file.size, chunk):
            part = transfer.read(file, start, min(file.size, start + chunk))
            stream.write(part)
            digest.update(part)
            transfer.take(len(part))
    return digest.hexdigest()
