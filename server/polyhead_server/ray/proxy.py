"""The part in Serve's gRPC proxy: it registers each method with bytes in and bytes out.

Serve replaces the behaviour of the handlers that are registered with its proxy by one that calls a
replica. What stands around that here does what Serve leaves out: it passes on the caller's deadline
and request id, and gives the details of errors to gRPC.
"""

from __future__ import annotations

from contextlib import aclosing
from itertools import groupby
from typing import TYPE_CHECKING, Any

import grpc

from polyhead_server.ray.answer import Answer
from polyhead_server.ray.contracts import methods
from polyhead_server.ray.paced_stream import PacedStream
from polyhead_server.ray.serve_context import ServeContext

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

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
        self._methods = {method.path: method for method in methods}
        self._method_handlers = {path: _for_serve(each) for path, each in self._methods.items()}
        """By path. Serve reads this, as gRPC's own handlers have it, and replaces it."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call; None if there is no such method."""
        path = handler_call_details.method
        if (method := self._methods.get(path)) is None:
            return None
        proxied: Any = self._method_handlers[path]
        if not method.answers_stream:
            return grpc.unary_stream_rpc_method_handler(_unary(proxied.unary_unary))
        if method.sends_stream:
            return grpc.stream_stream_rpc_method_handler(
                _stream(proxied.stream_stream, PacedStream.of_messages)
            )
        return grpc.unary_stream_rpc_method_handler(
            _stream(proxied.stream_stream, PacedStream.of_request)
        )


def _for_serve(method: Method) -> Handler:
    """Make a handler without (de)serializers; Serve gives it its behaviour.

    The replica gets a stream for every method that answers with one (PacedStream).
    """
    if method.answers_stream:
        return grpc.stream_stream_rpc_method_handler(_replaced)
    return grpc.unary_unary_rpc_method_handler(_replaced)


def _replaced(request: object, context: object) -> None:
    """Stand where Serve puts its own function."""


def _unary(serve: Callable[[bytes, Any], Any]) -> Callable[[bytes, Context], Any]:
    """Make the function of a method with one answer.

    It has the type of a stream, because gRPC adds an empty response to the failure of a unary call,
    and clients do not try again what has been answered. On the wire that is the only difference.
    """

    async def handle(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        known = ServeContext(context)
        answer = await serve(request, known)
        if isinstance(answer, Answer) and answer.code is grpc.StatusCode.OK:
            yield answer.message
        else:
            _set_status(answer, known, context)

    return handle


def _stream(
    serve: Callable[[Any, Any], Any], paced: Callable[[Any], PacedStream]
) -> Callable[[Any, Context], Any]:
    async def handle(sent: Any, context: Context) -> AsyncGenerator[bytes, None]:  # noqa: ANN401 - a message or a stream
        known, stream, answer = ServeContext(context), paced(sent), None
        async with aclosing(stream.answers(serve(stream.messages, known))) as answers:
            async for answer in answers:
                if answer.code is grpc.StatusCode.OK:
                    yield answer.message
        _set_status(answer, known, context)

    return handle


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
