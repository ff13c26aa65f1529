"""Makes loaded models independent of their files.

ONNX Runtime maps the data files of a graph into memory. If such a file is truncated or written over
while its model serves, the next run ends the process by SIGBUS, or computes with other weights.
ONNX Runtime can be given the content of data files instead, but only of those of the main graph,
and whole models have theirs in branches. So the mapped weights are copied once a model is loaded.

Weights that a kernel has packed are not copied, because nothing reads them again. The weights of a
branch stay mapped all the same (ONNX Runtime 1.32). So a run of every branch shows which weights
are still read, and only these are copied. MiniLM whole: 48 of 90 MB are copied in 60 ms; resident
are 150 MB, where copies of all weights take 202 and mapped ones 156.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["copy_mapped_files", "forget_mapped_pages"]

_MAPS, _PAGES = Path("/proc/self/maps"), Path("/proc/self/pagemap")
_MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+ +(.+)")
_PAGE_ENTRY, _PRESENT_BIT = np.dtype("=u8"), 63
"""What pagemap has for each page, and which bit says that the page is in memory."""
_MAP_FIXED, _MADV_DONTNEED, _FAILED = 0x10, 4, ctypes.c_void_p(-1).value
_HAS_COPIES = hasattr(os, "memfd_create")
"""Whether files in memory exist: on Linux. Windows truncates no file that is mapped; elsewhere the
files of a served model must not be written to."""


class _Mapping(NamedTuple):
    """Memory that maps a part of a file."""

    start: int
    size: int
    """Length in bytes, in whole pages."""
    offset: int
    """Where the part begins in the file."""
    path: bytes


def forget_mapped_pages(folder: Path) -> None:
    """Make pages of mapped files of a folder be read anew, so that it shows which are needed."""
    for mapping in _mappings(folder) if _HAS_COPIES else ():
        _libc().madvise(mapping.start, mapping.size, _MADV_DONTNEED)


def copy_mapped_files(folder: Path, *, only_resident: bool) -> int:
    """Replace memory that maps files of a folder by copies, and return how many bytes were copied.

    Other threads may read the memory meanwhile. ``only_resident``: leave mappings alone of which
    no page has been read. Raises ModelFileError if a file changes at the same time.
    """
    if not _HAS_COPIES:
        return 0
    mappings = [each for each in _mappings(folder) if not only_resident or _is_resident(each)]
    for path in {mapping.path for mapping in mappings}:
        _copy(path, [mapping for mapping in mappings if mapping.path == path])
    return sum(mapping.size for mapping in mappings)


def _mappings(folder: Path) -> Iterator[_Mapping]:
    """Yield the mappings of files of a folder."""
    prefix = os.fsencode(folder.resolve()) + b"/"
    written = prefix.replace(b"\n", b"\\012")  # the kernel escapes line breaks alone
    for line in _MAPS.read_bytes().splitlines():
        if written in line and (found := _MAPPING.fullmatch(line)):
            start, end, offset = (int(found[group], 16) for group in (1, 2, 3))
            path = found[4].replace(b"\\012", b"\n")
            if path.startswith(prefix):
                yield _Mapping(start, end - start, offset, path)


def _is_resident(mapping: _Mapping) -> bool:
    """Whether any page has been read; True as well where the kernel does not say.

    smaps states it too, but the kernel computes that for the mappings of all models at once: beside
    300 small whole models, loading one more took 0.4 s of CPU time, and takes 0.07 s.
    """
    try:
        with _PAGES.open("rb") as pages:
            pages.seek(mapping.start // mmap.PAGESIZE * _PAGE_ENTRY.itemsize)
            entries = pages.read(mapping.size // mmap.PAGESIZE * _PAGE_ENTRY.itemsize)
    except OSError:
        return True
    return bool((np.frombuffer(entries, _PAGE_ENTRY) >> _PRESENT_BIT).any())


def _copy(path: bytes, mappings: list[_Mapping]) -> None:
    """Map the parts of a file from a copy in memory, where parts that are mapped twice lie once."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _MAP_FIXED
    copy = os.memfd_create("polyhead-weights")
    try:
        _copy_parts(path, copy, mappings)
        for start, size, offset, *_ in mappings:
            if _libc().mmap(start, size, protection, flags, copy, offset) == _FAILED:
                raise OSError(ctypes.get_errno(), "a copy of weights cannot be mapped")
    finally:
        os.close(copy)


def _copy_parts(path: bytes, copy: int, mappings: list[_Mapping]) -> None:
    """Copy the mapped parts of a file to the same places of another."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which fails where it was replaced
    except OSError as error:
        raise ModelFileError("its weights were replaced while it was loaded") from error
    try:
        os.ftruncate(copy, max(mapping.offset + mapping.size for mapping in mappings))
        for _, size, offset, *_ in mappings:
            os.lseek(copy, offset, os.SEEK_SET)
            num_left = size
            while num_left and (
                num_copied := os.sendfile(copy, source, offset + size - num_left, num_left)
            ):
                num_left -= num_copied
            if num_left >= mmap.PAGESIZE:  # the last page need not be full
                raise ModelFileError("its weights were written to while it was loaded")
    finally:
        os.close(source)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc
