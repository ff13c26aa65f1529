"""Handlers whose calls are bounded in number and in time, whatever their methods do."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from polyhead_server.errors import InvalidRequestError, OverloadedError, StoppingError
from polyhead_server.rpc.handlers import refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from polyhead_server.rpc.open_calls import OpenCall, OpenCalls

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]
    Handler = grpc.RpcMethodHandler[bytes, bytes]
    Serve = Callable[[bytes | None, OpenCall], Awaitable[bytes | None]]

__all__ = ["LimitedHandlers"]

_MAX_KNOWN = 256
_RESET_S = 0.005
"""Seconds for which a refusal waits. A caller who resets its calls at once has none refused so soon
that the reset is not seen."""
_NO_MESSAGE = "expected one message; got none"


class LimitedHandlers(grpc.GenericRpcHandler):
    """Serves the methods of `service_handler`s within the limits of OpenCalls.

    Requests are read here and not by gRPC, so that a call counts, and its time is bounded, from its
    begin. On the wire that makes no difference.
    """

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler], calls: OpenCalls) -> None:
        self._handlers = tuple(handlers)
        self._calls = calls
        self._limited: dict[str, tuple[Handler, Handler]] = {}
        """By method: the handler that was found last, and that with limits."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call; None if there is no such method."""
        self._calls.num_seen += 1
        if self._calls.refuses_new:
            return _REFUSES
        method = handler_call_details.method
        for handler in self._handlers:
            if (found := handler.service(handler_call_details)) is not None:
                known = self._limited.get(method)
                if known is None or known[0] is not found:
                    if len(self._limited) > _MAX_KNOWN:  # callers choose names that are refused
                        self._limited.clear()
                    known = self._limited[method] = found, self._limit(method.lstrip("/"), found)
                return known[1]
        return None

    def _limit(self, method: str, handler: Any) -> Handler:  # noqa: ANN401 - it has no types
        if serve := handler.stream_stream:
            handle = self._handle(method, serve, has_request=False)  # it reads its messages itself
            return grpc.stream_stream_rpc_method_handler(handle)
        if serve := handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(self._handle(method, serve))
        return grpc.stream_unary_rpc_method_handler(self._handle(method, handler.unary_unary))

    def _handle(
        self, method: str, serve: Serve, *, has_request: bool = True
    ) -> Callable[[object, ServicerContext], Awaitable[bytes | None]]:
        async def handle(_: object, context: ServicerContext) -> bytes | None:
            try:
                call = self._calls.begin(context, method)
            except OverloadedError as error:
                refuse(context, error)  # type: ignore[arg-type]  # it never became an OpenCall
                with self._noting_resets(context):
                    await asyncio.sleep(_RESET_S)
                return None
            with self._noting_resets(call):
                request = None
                if has_request and (request := await call.read_request()) is None:
                    refuse(call, InvalidRequestError("request", _NO_MESSAGE, "REQUIRED"))
                    return None
                response = await serve(request, call)
                if not call.has_read:  # it was refused before
                    await asyncio.sleep(_RESET_S)
            # gRPC sends what is left when this returns
            call.owes(len(response) if response else 0)
            return response

        return handle

    @contextmanager
    def _noting_resets(self, call: OpenCall | ServicerContext) -> Iterator[None]:
        """Note a call that ends here because its peer has gone, unless a message was read."""
        try:
            yield
        except asyncio.CancelledError:  # gRPC keeps it to itself, so the task is not cancelled
            if not getattr(call, "has_read", False):
                self._calls.note_given_up(call.peer())
            raise


async def _refuse(_: object, context: Any) -> None:  # noqa: ANN401 - of a call that is not opened
    refuse(context, StoppingError())


# It has the type of a stream, because gRPC adds an empty response to the refusal of a unary call,
# and clients do not try again what has been answered.
_REFUSES: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
