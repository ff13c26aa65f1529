"""Handlers that bound the number of open calls, and the time that a call waits for its peer."""

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

_MAX_CACHED = 256
"""Most methods whose handlers are cached."""
_RESET_S = 0.005
"""Seconds for which a refusal waits, so that the reset of a call is seen before the call ends."""
_NO_MESSAGE = "expected one message; got none"
_AT_DEADLINE_S = 1.0
"""A call that would have ended so soon is probably given up because of its deadline, which counts
from an earlier moment for its client."""


class LimitedHandlers(grpc.GenericRpcHandler):
    """Serves the methods of `service_handler`s within the limits of OpenCalls.

    Requests are read here and not by gRPC, so that a call is counted, and its time is bounded, from
    its begin. The bytes on the wire are the same.
    """

    def __init__(self, handlers: Iterable[grpc.GenericRpcHandler], calls: OpenCalls) -> None:
        self._handlers = tuple(handlers)
        self._calls = calls
        self._limited: dict[str, tuple[Handler, Handler]] = {}
        """By method: its handler, and the handler with limits that was made of it."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the handler of a call; None if the method does not exist."""
        self._calls.num_seen += 1
        if self._calls.refuses_new:
            return _REFUSING_HANDLER
        method = handler_call_details.method
        for handler in self._handlers:
            if (match := handler.service(handler_call_details)) is not None:
                cached = self._limited.get(method)
                if cached is None or cached[0] is not match:
                    # callers choose the names of refused methods, so their number must be bounded
                    if len(self._limited) > _MAX_CACHED:
                        self._limited.clear()
                    cached = self._limited[method] = match, self._limit(method.lstrip("/"), match)
                return cached[1]
        return None

    def _limit(self, method: str, handler: Any) -> Handler:  # noqa: ANN401 - untyped in gRPC
        if serve := handler.stream_stream:
            handle = self._handle(method, serve, has_request=False)  # reads by itself
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
                refuse(context, error)  # type: ignore[arg-type]  # not an OpenCall
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
            # gRPC sends the response and the status when this returns
            call.limit_write(len(response) if response else 0)
            return response

        return handle

    @contextmanager
    def _noting_resets(self, call: OpenCall | ServicerContext) -> Iterator[None]:
        """Record the call as given up if it is cancelled before a message was read."""
        try:
            yield
        except asyncio.CancelledError:  # gRPC catches it, so the task is not marked as cancelled
            if not getattr(call, "has_read", False):
                remaining_s: float | None = call.time_remaining()  # None: it has no deadline
                is_late = remaining_s is not None and remaining_s <= _AT_DEADLINE_S
                self._calls.note_given_up(call.peer(), is_late=is_late)
            raise


async def _refuse(_: object, context: Any) -> None:  # noqa: ANN401 - gRPC's, not an OpenCall
    refuse(context, StoppingError())


# This is the handler of a stream, because gRPC adds an empty response to the refusal of a unary
# call, and clients do not retry a call that has a response.
_REFUSING_HANDLER: Handler = grpc.stream_stream_rpc_method_handler(_refuse)
