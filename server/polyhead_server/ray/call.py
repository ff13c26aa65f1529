"""A call in a replica, with the part of gRPC's context that handlers use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc

from polyhead_server.ray.answer import TIME_REMAINING, Answer
from polyhead_server.ray.paced_stream import ANSWERS_AHEAD

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from ray.serve.grpc_util import RayServegRPCContext

    Metadata = tuple[tuple[str, str | bytes], ...]

__all__ = ["ReplicaCall"]


class ReplicaCall:
    """The part of grpc.aio.ServicerContext that handlers use."""

    def __init__(
        self,
        context: RayServegRPCContext,
        messages: AsyncIterator[bytes],
        *,
        sends_messages: bool = False,
    ) -> None:
        """``messages``: the caller's messages, or one request and then TAKEN messages."""
        self._context = context
        self._messages = messages
        self._sends_messages = sends_messages
        self._num_untaken = 0
        """How many messages the caller has not taken yet, as far as the proxy has reported."""
        self._written: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.metadata: Metadata = tuple(
            (key, value) for key, value in context.invocation_metadata() if key != TIME_REMAINING
        )
        """The caller's metadata, without the proxy's own."""
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing_metadata: Metadata = ()

    def invocation_metadata(self) -> Metadata:
        """Return the caller's metadata."""
        return self.metadata

    def peer(self) -> str:
        """Return gRPC's name of the connection between the caller and Serve's proxy."""
        peer: str = self._context.peer()
        return peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return None, because Serve's proxy verifies no certificates."""
        return None

    def time_remaining(self) -> float | None:
        """Return the seconds that the caller still waited when the proxy had the call."""
        for key, value in self._context.invocation_metadata():
            if key == TIME_REMAINING:
                return float(value)
        return None

    async def read(self) -> object:
        """Wait for the caller's next message; grpc.aio.EOF at the end."""
        return await anext(self._messages, grpc.aio.EOF)

    async def write(self, message: bytes) -> None:
        """Give a message to Serve, and wait until Serve has taken it.

        Waits as well for what a caller who sends no messages has not taken of those before.
        """
        if not self._sends_messages:
            if self._num_untaken == ANSWERS_AHEAD:
                if await anext(self._messages, None) is None:  # the caller has gone
                    raise asyncio.CancelledError
                self._num_untaken -= 1
            self._num_untaken += 1
        self._written.put_nowait(message)
        await self._written.join()

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code of the call's status."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the message of the call's status."""
        self._details = details

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Set the metadata that follow the last message."""
        self._trailing_metadata = tuple(metadata)

    def status(self) -> Answer:
        """Return an answer with the status that the handler has set."""
        return Answer(b"", self._code, self._details, self._trailing_metadata)

    async def written(self, handler: asyncio.Task[bytes | None]) -> AsyncGenerator[bytes, None]:
        """Yield the handler's messages, until it has ended."""
        handler.add_done_callback(lambda _: self._written.put_nowait(None))
        while (message := await self._written.get()) is not None:
            yield message
            self._written.task_done()
