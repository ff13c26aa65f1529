"""Replies of a stream that wait to be sent: what is ready by then goes out in one message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from polyhead_server.errors import StalledError

if TYPE_CHECKING:
    from polyhead_server.codec.response import Reply
    from polyhead_server.rpc.handlers import Connection

__all__ = ["MESSAGE_BYTES", "Outbox", "held_bytes_limit", "write_in_time"]

MESSAGE_BYTES = 1 << 20
"""Replies are put into one message up to this size: larger ones gain nothing."""
_MAX_HELD_BYTES, _MIN_HELD_BYTES = 64 << 20, 1 << 20
_MAX_WRITE_S, _MIN_BYTES_PER_S = 60.0, 100_000
"""Who takes a message more slowly is cut off: what is held for him is lacking to others."""


def held_bytes_limit(share_bytes: int) -> int:
    """Give the bytes of requests and replies from which on a stream reads nothing more.

    One request may pass this, and no more than one. ``share_bytes``: where there are many streams,
    each has its share of --max-queue-bytes.
    """
    return max(_MIN_HELD_BYTES, min(_MAX_HELD_BYTES, share_bytes))


class Outbox:
    """Holds replies until they are written."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._unsent: list[Reply] = []
        self.num_bytes = 0
        """Of the replies that wait."""

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, reply: Reply) -> None:
        """Let a reply wait for the next message."""
        self._unsent.append(reply)
        self.num_bytes += reply.size

    async def send(self) -> None:
        """Write one message, and wait until the transport has taken it. Raises StalledError."""
        await write_in_time(self._connection, self._next_message())

    def _next_message(self) -> bytes:
        """Join replies: messages with one reply each, joined, are one with all of them."""
        parts: list[bytes | memoryview] = []
        size = count = 0
        for reply in self._unsent:
            if size and size + reply.size > MESSAGE_BYTES:
                break
            parts += reply.parts
            size += reply.size
            count += 1
        del self._unsent[:count]
        self.num_bytes -= size
        return b"".join(parts)


async def write_in_time(connection: Connection, message: bytes) -> None:
    """Write a message, and wait until the transport has taken it. Raises StalledError."""
    limit_s = _MAX_WRITE_S + len(message) / _MIN_BYTES_PER_S
    try:
        async with asyncio.timeout(limit_s):
            await connection.write(message)
    except TimeoutError:
        raise StalledError(limit_s) from None
