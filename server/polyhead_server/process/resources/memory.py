"""Tunes glibc's allocator for large messages. Does nothing with other C libraries.

By default glibc returns every large block to the kernel when it is freed, and the next message
faults the pages in again: 40 % of the CPU time of a response with 12.6 MB of weights, the graph
included. So the process keeps freed blocks, and returns them when the server has been idle.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_freed_memory", "return_free_memory", "trim_when_idle"]

# constants of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Keep freed blocks of up to 32 MiB for the next allocations.

    Larger blocks, such as score matrices, are returned at once, because faulting their pages in
    takes little time compared with computing their contents.

    Must be called before any thread starts, because it makes all threads share one arena:
    malloc_trim cannot shrink the others, and 130 MB stayed after 20 responses of 12.6 MB. Sharing
    took no measurable CPU time, even with four such calls at once.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 1)


def return_free_memory() -> None:
    """Return free memory to the kernel now."""
    malloc_trim = _libc_function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


async def trim_when_idle(
    idle_since: Callable[[], float | None],
    *,
    idle_s: float = 5.0,
    poll_s: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Return free memory to the kernel, once, whenever the server has been idle for ``idle_s``.

    That took 25 ms after a response of 800 MB, and the next large call has page faults again.
    ``idle_since``: returns when the last request ended, by ``clock``; None before and during one.
    """
    malloc_trim = _libc_function("malloc_trim")
    if malloc_trim is None:
        return
    trimmed_at: float | None = None
    while True:
        await asyncio.sleep(poll_s)
        since = idle_since()
        if since is None or since == trimmed_at:
            continue
        if clock() - since >= idle_s:
            malloc_trim(0)
            trimmed_at = since


def _libc_function(name: str) -> Any | None:  # noqa: ANN401 - ctypes has no narrower type
    """Return a function of the C library; None if the library lacks it."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
