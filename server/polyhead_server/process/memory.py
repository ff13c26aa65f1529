"""glibc's allocator, told what a server's messages are like; elsewhere nothing is done.

By default glibc gives every large block back to the kernel when it is freed, whose pages are then
faulted in again for the next message: of the CPU time of a reply with 12.6 MB of weights, graph
included, that was 40 %. So freed blocks are kept, and given back when the server has had nothing
to do for a while.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_freed_memory", "trim_when_idle"]

# glibc's names and numbers, of malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8

_MMAP_THRESHOLD_BYTES = 32 << 20
_TRIM_THRESHOLD_BYTES = 1 << 30
_IDLE_S, _POLL_S = 5.0, 1.0


def keep_freed_memory() -> None:
    """Keep what is freed, in blocks of up to 32 MiB, for what is allocated next.

    Larger ones, such as blocks of score matrices, go back at once: the pages they fault in are
    little beside what is computed in them.

    To be called before there are threads. All of them share one arena: malloc_trim cannot give
    back the end of any but the first, and 130 MB stayed after 20 replies of 12.6 MB. It costs no
    CPU time that could be measured, four such calls at once included.
    """
    mallopt = _libc_function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 1)


async def trim_when_idle(idle_since: Callable[[], float | None]) -> None:
    """Give free memory back to the kernel, once, whenever the server has been idle for 5 s.

    That took 25 ms after a reply of 800 MB, and leaves the next large call its page faults.

    `idle_since`: when it became idle, of the monotonic clock; None while it is not, or has never
    been anything else.
    """
    malloc_trim = _libc_function("malloc_trim")
    if malloc_trim is None:
        return
    trimmed_at: float | None = None
    while True:
        await asyncio.sleep(_POLL_S)
        since = idle_since()
        if since is None or since == trimmed_at:
            continue
        if time.monotonic() - since >= _IDLE_S:
            malloc_trim(0)
            trimmed_at = since


def _libc_function(name: str) -> Any | None:  # noqa: ANN401 - ctypes has no narrower type
    """A function of the C library's; None where it is not glibc."""
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), name, None)
