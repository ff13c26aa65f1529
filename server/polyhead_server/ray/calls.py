"""The calls of a replica: methods that Serve calls, instead of a port."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from polyhead_server.ray.answer import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Sequence

    from polyhead_server.ray.call import ReplicaCall

__all__ = ["ReplicaCalls"]


@dataclass
class _Details:
    """A grpc.HandlerCallDetails, by which handlers are found."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...]


class ReplicaCalls:
    """A CallSource without a port."""

    max_connections = max_waiting_calls = 0

    def __init__(self) -> None:
        self._handlers: Sequence[grpc.GenericRpcHandler] = ()

    def check(self) -> None:
        """Do nothing, because there is no address."""

    async def start(self, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Serve calls by these handlers. Returns 0, because no port is listened on."""
        self._handlers = handlers
        return 0

    def num_received(self) -> int:
        """Return 0, because Serve drops no calls."""
        return 0

    def num_unanswered(self, addresses: Collection[str]) -> Counter[str]:  # noqa: ARG002
        """Return no numbers, because Serve drops no calls."""
        return Counter()

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002 - Serve has let calls finish
        """Serve no more calls."""
        self._handlers = ()

    async def answer(self, method: str, call: ReplicaCall) -> Answer:
        """Run a call that has one response. Raises CancelledError if its caller has gone."""
        response = await _end_of(self._begin(method, call), call)
        return call.status() if response is None else Answer(response)

    async def answers(self, method: str, call: ReplicaCall) -> AsyncGenerator[Answer, None]:
        """Run a call that has any number of responses, each as soon as the handler writes it."""
        handler = self._begin(method, call)
        try:
            async with aclosing(call.written(handler)) as messages:
                async for message in messages:
                    yield Answer(message)
            await _end_of(handler, call)
        finally:  # Serve closes this when the caller has gone
            handler.cancel()
        if (status := call.status()).code is not grpc.StatusCode.OK:
            yield status

    def _begin(self, method: str, call: ReplicaCall) -> asyncio.Task[bytes | None]:
        """Run a call's handler in a task of its own, as gRPC does: its end is the call's end."""
        return asyncio.create_task(self._serve(method, call))

    async def _serve(self, method: str, call: ReplicaCall) -> bytes | None:
        details = _Details(method, call.metadata)
        for handlers in self._handlers:
            handler: Any = handlers.service(details)
            if handler is not None:
                serve = handler.stream_stream or handler.stream_unary
                response: bytes | None = await serve(None, call)
                return response
        call.set_code(grpc.StatusCode.UNIMPLEMENTED)
        call.set_details("Method not found!")
        return None


async def _end_of(handler: asyncio.Task[bytes | None], call: ReplicaCall) -> bytes | None:
    """Wait for a handler. One that the server has cut off leaves the status CANCELLED."""
    waiting = asyncio.current_task()
    try:
        return await handler
    except asyncio.CancelledError:
        if waiting is not None and waiting.cancelling():
            raise
        call.set_code(grpc.StatusCode.CANCELLED)
        return None
