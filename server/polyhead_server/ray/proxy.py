"""What runs in Serve's gRPC proxy: each method is registered with bytes in and bytes out.

Serve replaces the behaviour of the handlers that are registered with its proxy by one that calls a
replica. What stands around that here does what Serve leaves out: it passes on the caller's deadline
and request id, and gives the details of errors to gRPC.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import groupby
from typing import TYPE_CHECKING, Any

import grpc

from polyhead_server.ray.answer import Answer
from polyhead_server.ray.contracts import methods
from polyhead_server.ray.serve_context import ServeContext

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable

    from polyhead_server.ray.contracts import Method

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]

__all__ = ["add_services_to_server"]

_REPLICA_ENDED = "the replica that ran this call ended before it had answered; try again"


def add_services_to_server(_: object, server: grpc.aio.Server) -> None:
    """Register every method of every service with Serve's proxy, which calls this."""
    for _service, group in groupby(methods(), key=lambda method: method.service):
        server.add_generic_rpc_handlers((_ProxiedService(group),))


class _ProxiedService(grpc.GenericRpcHandler):
    """The handlers of a service, which Serve makes call a replica."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._method_handlers = {method.path: _handler_of(method) for method in methods}
        """By path. Serve reads this, as gRPC's own handlers have it, and replaces it."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call; None if there is no such method."""
        proxied: Any = self._method_handlers.get(handler_call_details.method)
        if proxied is None:
            return None
        if proxied.response_streaming:
            serve = proxied.stream_stream if proxied.request_streaming else proxied.unary_stream
            return _HANDLERS[proxied.request_streaming, True](_stream(serve))
        return grpc.unary_unary_rpc_method_handler(_unary(proxied.unary_unary))


_HANDLERS: dict[tuple[bool, bool], Callable[[Any], Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""By whether the caller sends a stream, and whether the answer is one."""


def _handler_of(method: Method) -> Handler:
    """Make a handler without (de)serializers; Serve gives it its behaviour."""
    return _HANDLERS[method.sends_stream, method.answers_stream](None)


def _unary(serve: Callable[[bytes, Any], Any]) -> Callable[[bytes, Context], Any]:
    async def handle(request: bytes, context: Context) -> bytes | None:
        known = ServeContext(context)
        answer = await serve(request, known)
        if isinstance(answer, Answer) and answer.code is grpc.StatusCode.OK:
            return answer.message
        _set_status(answer, known, context)
        return None

    return handle


def _stream(serve: Callable[[Any, Any], Any]) -> Callable[[Any, Context], Any]:
    async def handle(request: Any, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 - a message or a stream
        known = ServeContext(context)
        answer = None
        async with aclosing(_received(serve(request, known))) as answers:
            async for answer in answers:
                if answer.code is grpc.StatusCode.OK:
                    yield answer.message
        _set_status(answer, known, context)

    return handle


async def _received(answers: AsyncIterator[Answer]) -> AsyncGenerator[Answer, None]:
    """Yield what Serve yields, which a task of its own receives.

    Serve cancels the replica's call only if it is cancelled while it waits for a message, and not
    while gRPC writes one. So it always waits. It holds what the replica sends in any case.
    """
    received: asyncio.Queue[Answer | None] = asyncio.Queue()

    async def receive() -> None:
        async for answer in answers:
            received.put_nowait(answer)

    receiving = asyncio.create_task(receive())
    receiving.add_done_callback(lambda _: received.put_nowait(None))
    try:
        while (answer := await received.get()) is not None:
            yield answer
        await receiving
    finally:
        receiving.cancel()


def _set_status(answer: object, known: ServeContext, context: Context) -> None:
    """Set the status of a call: that of its last answer, or else the one that Serve has set.

    A replica answers each failure of its own, so INTERNAL of Serve says that the replica has ended,
    with a text about Serve's own processes. Another replica may answer the same call.
    """
    if isinstance(answer, Answer) and answer.code is not grpc.StatusCode.OK:
        context.set_code(answer.code)
        context.set_details(answer.details)
        context.set_trailing_metadata((*known.trailing_metadata(), *answer.trailing_metadata))
    elif known.code() is grpc.StatusCode.INTERNAL:
        context.set_code(grpc.StatusCode.UNAVAILABLE)
        context.set_details(_REPLICA_ENDED)
    elif (code := known.code()) is not None:
        context.set_code(code)
        context.set_details(known.details())
