"""What the streams of both services share: reading, writing, and ending well."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from polyhead_server.codec.response import Response
    from polyhead_server.limits import StreamLimits
    from polyhead_server.rpc.call_context import CallContext, Held
    from polyhead_server.rpc.handlers import Connection

__all__ = ["SendBuffer", "StreamSession"]


class StreamSession(ABC):
    """One stream, from its first message to its last.

    Two tasks serve it. The reader takes one message after the other, as long as the session has
    capacity. The writer sends what is done. They meet in `has_work`, which the reader and finished
    requests set, and `has_capacity`, which the writer sets.

    Invariants: a stream that ends well has answered every request that it has read; what it holds
    is bounded by its limits; when `serve` returns, none of its tasks is left.
    """

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        limits: StreamLimits,
        share_bytes: Callable[[], int],
        max_age_s: float | None = None,
    ) -> None:
        """``share_bytes``: returns what this stream may hold, which depends on how many there are.

        ``max_age_s``: seconds after which the stream ends; None: it does not end by itself.
        """
        self.connection = connection
        self.context = context
        self.limits = limits
        self._share_bytes = share_bytes
        self._max_age_s = max_age_s
        self.has_work = asyncio.Event()
        self.has_capacity = asyncio.Event()
        self.num_messages = 0
        """Number of messages that were read."""
        self._is_ending = False
        self._awaits_message = True

    @abstractmethod
    async def accept(self, message: bytes) -> None:
        """Take the requests of a message. Raises InvalidRequestError for one that is malformed."""

    @abstractmethod
    def is_full(self) -> bool:
        """Whether nothing more may be read until something has been answered."""

    @abstractmethod
    async def write_loop(self) -> None:
        """Send what is done, until `finish` has been called and everything is sent."""

    @abstractmethod
    async def finish(self) -> None:
        """Let the write loop end once everything that was read is answered."""

    @abstractmethod
    def tasks(self) -> Iterable[asyncio.Task[object]]:
        """Return the tasks of the requests that are not answered."""

    def max_held_bytes(self) -> int:
        """Return the bytes of requests and responses from which on the session is full."""
        return self.limits.max_held_bytes(self._share_bytes())

    async def serve(self, draining: asyncio.Event) -> None:
        """Serve until the client has no more requests, or this server ends the stream.

        Raises InvalidRequestError for a malformed message.
        """
        reading = asyncio.create_task(self._read_loop())
        writing = asyncio.create_task(self.write_loop())
        renewing = asyncio.create_task(draining.wait())
        tasks: list[asyncio.Task[object]] = [reading, writing, renewing]
        try:
            await asyncio.wait(tasks, timeout=self._max_age_s, return_when=asyncio.FIRST_COMPLETED)
            self._is_ending = True
            # A message that has been read is accepted to its end, as long as the client reads.
            if not (self._awaits_message or reading.done()):
                await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
            await self.finish()
            await writing
            if not reading.cancelled():
                reading.result()
        finally:
            for task in (*tasks, *self.tasks()):
                task.cancel()
            del reading, writing, tasks, task  # their exceptions lead to this frame: a cycle

    async def _read_loop(self) -> None:
        while not self._is_ending:
            await self.wait_for_capacity()
            self._awaits_message = True
            message = await self.connection.read()
            self._awaits_message = False
            if message is None:
                return
            self.num_messages += 1
            await self.accept(message)
            del message  # it may be large, and would be held until the next one comes

    async def wait_for_capacity(self) -> None:
        """Wait until the session is not full."""
        while self.is_full():
            self.has_capacity.clear()
            await self.has_capacity.wait()


class SendBuffer:
    """Responses that wait to be written: those that are ready by then go out in one message."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._unsent: list[tuple[Response, Held | None]] = []
        self.num_bytes = 0
        """Size of the responses that wait."""

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, response: Response, held: Held | None = None) -> None:
        """Let a response wait for the next message. ``held``: what it holds until it is sent."""
        self._unsent.append((response, held))
        self.num_bytes += response.size

    def next_message(self) -> tuple[bytes, list[Held]]:
        """Join the oldest responses; messages with one response each, joined, are one with all.

        Also returns what they hold.
        """
        parts: list[bytes | memoryview] = []
        holds: list[Held] = []
        size = count = 0
        for response, held in self._unsent:
            if size and size + response.size > self._max_message_bytes:
                break
            parts += response.parts
            if held is not None:
                holds.append(held)
            size += response.size
            count += 1
        del self._unsent[:count]
        self.num_bytes -= size
        return b"".join(parts), holds
