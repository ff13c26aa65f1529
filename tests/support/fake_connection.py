"""A stream's connection, of which the test holds the client's end."""

from __future__ import annotations

import asyncio


class FakeConnection:
    """Messages in, messages out. ``can_write`` lets the test hold up the server's writes."""

    def __init__(self):
        self.incoming = asyncio.Queue()
        self.num_read = 0
        self.sent = []
        """Messages that the server has written."""
        self.has_written = asyncio.Event()
        self.can_write = asyncio.Event()
        self.can_write.set()

    async def read(self):
        message = await self.incoming.get()
        self.num_read += 1
        return message

    async def write(self, response):
        self.sent.append(response)
        self.has_written.set()
        await self.can_write.wait()

    def send_bytes(self, data):
        self.incoming.put_nowait(data)

    def end(self):
        """Half-close the stream: there are no more requests."""
        self.incoming.put_nowait(None)
