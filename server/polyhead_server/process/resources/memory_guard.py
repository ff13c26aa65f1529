"""Keeps requests that are still arriving from using up the memory.

gRPC holds the bytes of a request until the last one has arrived, and does not report them before.
So they cannot be counted, and the memory of the process is measured instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from polyhead_server.process.resources.available_memory import resident_bytes
from polyhead_server.process.resources.memory import return_free_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.rpc.open_calls import OpenCall, OpenCalls

__all__ = ["MemoryGuard"]

_LOG = logging.getLogger("polyhead.memory")


class MemoryGuard:
    """Ends calls whose messages are arriving while the process uses too much memory.

    The calls of the peer with most of them are ended first, so that others do not suffer for it.
    """

    def __init__(
        self,
        calls: OpenCalls,
        max_bytes: int,
        *,
        used_bytes: Callable[[], int] = resident_bytes,
        return_free: Callable[[], None] = return_free_memory,
        poll_s: float = 0.05,
    ) -> None:
        """``max_bytes``: from which on calls are cut."""
        self._calls = calls
        self._max_bytes = max_bytes
        self._used_bytes = used_bytes
        self._return_free = return_free
        self._poll_s = poll_s

    async def watch(self) -> None:
        """Check the memory repeatedly, until this is cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            if self._used_bytes() > self._max_bytes and self._calls.receiving():
                self._return_free()  # freed memory counts as used until it is returned
                if (used := self._used_bytes()) > self._max_bytes:
                    self._cut(used)

    def _cut(self, used: int) -> None:
        by_peer: defaultdict[str, list[OpenCall]] = defaultdict(list)
        receiving = self._calls.receiving()
        # streams wait for messages without an end, and most of them hold nothing meanwhile
        for call in [call for call in receiving if call.due is not None] or receiving:
            by_peer[call.peer_name].append(call)
        _LOG.warning("memory is short", extra={"used_bytes": used, "max_bytes": self._max_bytes})
        most = max(by_peer.values(), key=len)
        self._calls.cut(most, "the server has too little memory for what is being sent")
