"""The base class of both services' streams: it reads, writes, and ends the stream."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from polyhead_server.errors import RequestError, drop_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from polyhead_server.codec.response import Response
    from polyhead_server.limits import StreamLimits
    from polyhead_server.rpc.call_context import CallContext, Releasable
    from polyhead_server.rpc.handlers import Connection

__all__ = ["SendBuffer", "StreamSession"]


class StreamSession(ABC):
    """One stream, from its first message to its last.

    Two tasks serve it. The reader takes one message after the other while the session has capacity.
    The writer sends responses. The reader and finished requests set `has_work`; the writer sets
    `has_capacity`.

    Invariants: a stream that ends with OK has answered every request that it has read. Its memory
    is bounded by its limits. When `serve` returns, all its tasks have ended.
    """

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        limits: StreamLimits,
        share_bytes: Callable[[], int],
        max_age_s: float | None = None,
    ) -> None:
        """``share_bytes``: returns the bytes that this stream may hold, given the open streams.

        ``max_age_s``: seconds after which the stream ends; None means that it does not end by
        itself.
        """
        self.connection = connection
        self.context = context
        self.limits = limits
        self._share_bytes = share_bytes
        self._max_age_s = max_age_s
        self.has_work = asyncio.Event()
        self.has_capacity = asyncio.Event()
        self.num_messages = 0
        """Number of messages read."""
        self._is_ending = False
        self._awaits_message = True

    @abstractmethod
    async def accept(self, message: bytes) -> None:
        """Take the requests of a message.

        Raises InvalidRequestError if it is malformed, and OverloadedError if it is too much to hold
        while its requests wait.
        """

    @abstractmethod
    def is_full(self) -> bool:
        """Whether the stream must answer requests before it reads more."""

    @abstractmethod
    async def write_loop(self) -> None:
        """Send responses, until `finish` has been called and everything is sent."""

    @abstractmethod
    async def finish(self) -> None:
        """Let the write loop end when all requests that were read are answered."""

    @abstractmethod
    def tasks(self) -> Iterable[asyncio.Task[object]]:
        """Return the tasks of the requests that are not answered."""

    def max_held_bytes(self) -> int:
        """Return the most bytes of requests and responses before the session is full."""
        return self.limits.max_held_bytes(self._share_bytes())

    async def serve(self, draining: asyncio.Event) -> None:
        """Serve until the client has no more requests, or this server ends the stream.

        Raises the errors of accept.
        """
        reading = asyncio.create_task(self._read_loop())
        writing = asyncio.create_task(self.write_loop())
        renewing = asyncio.create_task(draining.wait())
        tasks: list[asyncio.Task[object]] = [reading, writing, renewing]
        try:
            await asyncio.wait(tasks, timeout=self._max_age_s, return_when=asyncio.FIRST_COMPLETED)
            self._is_ending = True
            # accept all of a message that has been read, while the client reads responses
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
            del reading, writing, tasks, task  # their exceptions refer to this frame: a cycle

    async def _read_loop(self) -> None:
        while True:
            await self.wait_for_capacity()
            if self._is_ending:
                return
            self._awaits_message = True
            message = await self.connection.read()
            self._awaits_message = False
            if message is None:
                return
            self.num_messages += 1
            try:
                await self.accept(message)
            except RequestError as error:
                # What was answered before is sent first, and its reader may be slow.
                drop_frames(error)
                del message
                raise
            del message  # it may be large, and would stay in memory until the next one arrives

    async def wait_for_capacity(self) -> None:
        """Wait until the session is not full."""
        while self.is_full():
            self.has_capacity.clear()
            await self.has_capacity.wait()


class SendBuffer:
    """The responses that wait to be sent. A message takes as many as are ready."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._unsent: list[tuple[Response, Releasable | None]] = []
        self.num_bytes = 0
        """Size of the waiting responses."""

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, response: Response, reservation: Releasable | None = None) -> None:
        """Add a response. ``reservation``: its memory, which is released when it is sent."""
        self._unsent.append((response, reservation))
        self.num_bytes += response.size

    def next_message(self) -> tuple[bytes, list[Releasable]]:
        """Join the oldest responses to one message; return it and the responses' reservations.

        Messages with one response each, one after the other, are one message with all of them.
        """
        parts: list[bytes | memoryview] = []
        reservations: list[Releasable] = []
        size = count = 0
        for response, reservation in self._unsent:
            if size and size + response.size > self._max_message_bytes:
                break
            parts += response.parts
            if reservation is not None:
                reservations.append(reservation)
            size += response.size
            count += 1
        del self._unsent[:count]
        self.num_bytes -= size
        return b"".join(parts), reservations
