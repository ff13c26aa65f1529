"""SHA256SUMS: the checksums of a version's files, in the form that `sha256sum -c` reads.

A flipped bit in a weight gives wrong answers and no error, so the server compares the files with
their checksums before it loads them.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "CHECKSUMS_FILE",
    "MAX_LIST_BYTES",
    "ChecksumError",
    "check_files",
    "parse_checksums",
    "write_checksums",
]

CHECKSUMS_FILE = "SHA256SUMS"
MAX_LIST_BYTES = 64 << 10
"""Longest list of checksums that is read; one line takes about 80 bytes."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]{1,255})")


class ChecksumError(ValueError):
    """A file differs from its checksum, or the list of checksums cannot be read."""


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files of a folder beside them."""
    lines = [f"{_checksum(file)}  {file.name}\n" for file in sorted(folder.iterdir())]
    (folder / CHECKSUMS_FILE).write_bytes("".join(lines).encode())


def check_files(
    folder: Path, required: Iterable[str] = (), *, max_list_bytes: int = MAX_LIST_BYTES
) -> bool:
    """Compare the files of a folder with the list in it, and return whether there is a list.

    ``required``: names of files that must be in the list if they are in the folder. Files are read
    in parts, without Python's lock. Raises ChecksumError, whose message names no folder.
    """
    if not os.path.lexists(folder / CHECKSUMS_FILE):
        return False
    try:
        checksums = _read_list(folder, max_list_bytes)
        for name in required:
            if name not in checksums and (folder / name).exists():
                raise ChecksumError(f"its {CHECKSUMS_FILE} does not list {name}")
        for name, checksum in checksums.items():
            _check_is_inside(folder, name)
            if _checksum(folder / name) != checksum:
                raise ChecksumError(
                    f"its {name!r} is damaged: it differs from its checksum in {CHECKSUMS_FILE}; "
                    "export the model or copy it again"
                )
    except OSError as error:
        raise ChecksumError(
            f"a file of its {CHECKSUMS_FILE} cannot be read: {error.strerror}"
        ) from error
    return True


def _read_list(folder: Path, max_bytes: int) -> dict[str, str]:
    """Return the checksums by the files' names."""
    _check_is_inside(folder, CHECKSUMS_FILE)
    with (folder / CHECKSUMS_FILE).open("rb") as stream:
        content = stream.read(max_bytes + 1)
    return parse_checksums(content, max_bytes)


def parse_checksums(content: bytes, max_bytes: int = MAX_LIST_BYTES) -> dict[str, str]:
    """Return the checksums in a list, by the files' names. Raises ChecksumError."""
    if len(content) > max_bytes:
        raise ChecksumError(f"its {CHECKSUMS_FILE} is longer than {max_bytes:,} bytes")
    checksums: dict[str, str] = {}
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ChecksumError(f"its {CHECKSUMS_FILE} is not UTF-8") from error
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if not match or match[2] in {".", "..", CHECKSUMS_FILE, *checksums}:
            raise ChecksumError(
                f"line {number} of its {CHECKSUMS_FILE} is not the checksum of another file in the "
                "same folder, as sha256sum writes it"
            )
        checksums[match[2]] = match[1]
    return checksums


def _check_is_inside(folder: Path, name: str) -> None:
    """Raise ChecksumError unless a name is that of a regular file in the folder."""
    file = folder / name
    if not file.exists():
        raise ChecksumError(f"its {name!r} is missing")
    if not file.is_file():  # opening a pipe would wait for its writer
        raise ChecksumError(f"its {name!r} is not a regular file")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ChecksumError(f"its {name!r} is a link to a file outside of its folder")


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
