"""A call with a stream of answers, in Serve's proxy: the caller's reading sets the pace.

Serve holds whatever a replica answers, however slowly the caller reads. So the replica hears, by
the stream that Serve lets it read, how much the caller has taken.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from polyhead_server.ray.answer import Answer

__all__ = ["ANSWERS_AHEAD", "TAKEN", "PacedStream"]

TAKEN = b""
"""The message to a replica for each answer that the caller has taken. If a call has one request,
it comes before these messages."""
ANSWERS_AHEAD = 2
"""Answers that a replica may send before the caller has taken the first of them."""


class PacedStream:
    """The messages for the replica, and its answers, at the caller's pace."""

    def __init__(self) -> None:
        self.messages: AsyncIterator[bytes]
        """The messages that the replica reads from Serve."""
        self._received: asyncio.Queue[Answer | None] = asyncio.Queue()
        self._taken = asyncio.Semaphore(0)
        self._has_room = asyncio.Event()
        self._has_room.set()

    @classmethod
    def of_request(cls, request: bytes) -> PacedStream:
        """Make the stream of a call with one request: the replica also reads TAKEN."""
        stream = cls()
        stream.messages = stream._request_and_taken(request)
        return stream

    @classmethod
    def of_messages(cls, messages: AsyncIterator[bytes]) -> PacedStream:
        """Make the stream of a call with any number of messages.

        While the caller takes no answers, it is not read from, and the replica answers only what it
        has read: the limits of a stream bound that.
        """
        stream = cls()
        stream.messages = stream._while_there_is_room(messages)
        return stream

    async def _request_and_taken(self, request: bytes) -> AsyncGenerator[bytes, None]:
        yield request
        while True:
            await self._taken.acquire()
            yield TAKEN

    async def _while_there_is_room(
        self, messages: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        async for message in messages:
            await self._has_room.wait()
            yield message

    async def answers(self, answers: AsyncIterator[Answer]) -> AsyncGenerator[Answer, None]:
        """Yield what Serve yields, which a task of its own receives.

        Serve cancels the replica's call only if it is cancelled while it waits for an answer, and
        not while gRPC writes one. So it always waits.
        """
        receiving = asyncio.create_task(self._receive(answers))
        receiving.add_done_callback(lambda _: self._received.put_nowait(None))
        try:
            while (answer := await self._received.get()) is not None:
                yield answer
                self._taken.release()
                if self._received.qsize() < ANSWERS_AHEAD:
                    self._has_room.set()
            await receiving
        finally:
            receiving.cancel()

    async def _receive(self, answers: AsyncIterator[Answer]) -> None:
        async for answer in answers:
            self._received.put_nowait(answer)
            if self._received.qsize() >= ANSWERS_AHEAD:
                self._has_room.clear()
