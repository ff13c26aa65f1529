"""Collects the numbers of the workers: the supervisor asks each over a pair of sockets.

No files are used, so a worker that dies leaves none behind. A worker that hangs does not delay the
others; its numbers are missing.
"""

from __future__ import annotations

import asyncio
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from polyhead_server.process.metrics.snapshot import Snapshot

__all__ = ["WorkerNumbers", "answer_supervisor"]

_ASK = b"?"
_SIZE_BYTES = 8


async def answer_supervisor(end: socket, take_snapshot: Callable[[], Snapshot]) -> None:
    """Send a snapshot each time the supervisor asks, until it has gone.

    ``end``: the worker's end of the pair.
    """
    reader, writer = await asyncio.open_connection(sock=end)
    with suppress(ConnectionError):
        while await reader.read(1):
            data = pickle.dumps(take_snapshot())
            writer.write(len(data).to_bytes(_SIZE_BYTES) + data)
            await writer.drain()
    writer.close()


class WorkerNumbers:
    """The supervisor's end: asks a worker for its numbers, one request at a time."""

    def __init__(self, end: socket) -> None:
        self._end = end
        self._asking: asyncio.Task[Snapshot | None] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def snapshot(self, within_s: float) -> Snapshot | None:
        """Ask, and wait for the answer; None if the worker ends, or does not answer in time."""
        if self._asking is None or self._asking.done():
            # goes on when the time is up, because the next answer is to the next question only
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        await asyncio.wait({asking}, timeout=within_s)
        return asking.result() if asking.done() and not asking.cancelled() else None

    def close(self) -> None:
        """Forget the worker, which has ended."""
        if self._asking is not None:
            self._asking.cancel()
        if self._streams is None:
            self._end.close()
        else:
            self._streams[1].close()

    async def _ask(self) -> Snapshot | None:
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(sock=self._end)
            reader, writer = self._streams
            writer.write(_ASK)
            size = int.from_bytes(await reader.readexactly(_SIZE_BYTES))
            snapshot: Snapshot = pickle.loads(await reader.readexactly(size))  # noqa: S301 - our own worker's
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        return snapshot
