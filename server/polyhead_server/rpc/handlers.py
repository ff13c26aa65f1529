"""The outermost layer of every call: makes gRPC handlers of plain methods.

A method takes the bytes of a request, and returns the bytes of a response, yields several of them,
or reads and writes messages itself. Every exception is mapped to a gRPC status here and nowhere
else. Unexpected exceptions become INTERNAL with an incident id, which is also in the log. The
observer counts, logs and traces each call at its end.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import grpc

from polyhead_server.deadline import Deadline
from polyhead_server.errors import RequestError
from polyhead_server.origin import Origin
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.rpc.status import code_of, trailing_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from polyhead_server.rpc.call_counts import MethodCounts
    from polyhead_server.rpc.observer import CallObserver
    from polyhead_server.rpc.open_calls import OpenCall

    Method = Callable[[bytes, "CallContext"], Awaitable[bytes]]
    Stream = Callable[[bytes, "CallContext"], AsyncGenerator[bytes, None]]
    Conversation = Callable[["Connection", "CallContext"], Awaitable[None]]

__all__ = [
    "Connection",
    "UnknownMethods",
    "refuse",
    "refusing_handler",
    "service_handler",
]

_T = TypeVar("_T")
_Input = TypeVar("_Input")


class _Endpoint(NamedTuple):
    """The counts of one method's calls, and the observer of their ends."""

    counts: MethodCounts
    observer: CallObserver


class Connection:
    """The two message streams of a call."""

    def __init__(self, context: OpenCall, endpoint: _Endpoint) -> None:
        self._context = context
        self._counts = endpoint.counts
        self.observer = endpoint.observer
        """Records the end of each request of a stream."""

    async def read(self) -> bytes | None:
        """Wait for the caller's next message; None at the end of the stream."""
        message: object = await self._context.read()
        if not isinstance(message, bytes):  # it is grpc.aio.EOF
            return None
        self._counts.num_read += 1
        return message

    async def write(self, response: bytes) -> None:
        """Send one message, and wait until the transport has accepted it."""
        try:
            await self._context.write(response)
        except grpc.aio.BaseError:  # the connection broke; gRPC cancels the call only later
            raise asyncio.CancelledError from None
        self._counts.num_written += 1


def service_handler(
    service: str,
    methods: dict[str, Method],
    streams: dict[str, Stream] | None = None,
    conversations: dict[str, Conversation] | None = None,
    *,
    observer: CallObserver,
) -> grpc.GenericRpcHandler:
    """Make a service's handler without (de)serializers, so that its methods take and return bytes.

    `methods` return one response. `streams` yield responses, each after the transport has accepted
    the previous one. `conversations` read and write messages themselves.
    """

    def endpoint(name: str, kind: str) -> _Endpoint:
        return _Endpoint(observer.counts.add_method(service, name, kind), observer)

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        # for a failed call None is returned, and gRPC sends the status and no message
        name: grpc.unary_unary_rpc_method_handler(
            partial(_handle_call, endpoint(name, "unary"), method)
        )
        for name, method in methods.items()
    }
    for name, stream in (streams or {}).items():
        handle = _stream(endpoint(name, "server_stream"), stream)
        handlers[name] = grpc.unary_stream_rpc_method_handler(handle)
    for name, conversation in (conversations or {}).items():
        handlers[name] = grpc.stream_stream_rpc_method_handler(
            _conversation(endpoint(name, "bidi_stream"), conversation)
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def refusing_handler(
    observer: CallObserver, name: str, error: RequestError
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Make a handler that refuses a call of any kind, before any of its messages is read.

    ``name``: Service/Method. A method that does not exist is counted as unknown.
    """

    async def raise_error(_: Connection, __: CallContext) -> None:
        raise error

    endpoint = _Endpoint(observer.counts.of_method(name), observer)
    return grpc.stream_stream_rpc_method_handler(_conversation(endpoint, raise_error))


class UnknownMethods(grpc.GenericRpcHandler):
    """The last handler, which refuses calls to unknown methods, as gRPC does, and counts them.

    Nothing sees gRPC's own refusals, so callers could reset any number of such calls.
    """

    def __init__(self, observer: CallObserver) -> None:
        self._counts = observer.counts.unknown
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
            self._refuse
        )

    def service(
        self,
        handler_call_details: grpc.HandlerCallDetails,  # noqa: ARG002 - gRPC's name
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler of any method."""
        return self._handler

    async def _refuse(self, _: object, context: OpenCall) -> None:
        self._counts.num_started += 1
        self._counts.handled["UNIMPLEMENTED"] += 1
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not found!")


def _stream(endpoint: _Endpoint, method: Stream) -> Callable[[bytes, OpenCall], Awaitable[None]]:
    async def handle(request: bytes, context: OpenCall) -> None:
        write_all = partial(_write_all, Connection(context, endpoint), method)
        await _handle_call(endpoint, write_all, request, context)

    return handle


def _conversation(
    endpoint: _Endpoint, method: Conversation
) -> Callable[[object, OpenCall], Awaitable[None]]:
    async def handle(_: object, context: OpenCall) -> None:
        connection = Connection(context, endpoint)
        await _handle_call(endpoint, method, connection, context)

    return handle


async def _handle_call(
    endpoint: _Endpoint,
    body: Callable[[_Input, CallContext], Awaitable[_T]],
    request: _Input,
    context: OpenCall,
) -> _T | None:
    """Run a call, and set its status. Returns None if it failed. Raises CancelledError."""
    started, (counts, observer) = time.monotonic(), endpoint
    counts.num_started += 1
    remaining_s: float | None = context.time_remaining()  # None means no deadline
    call = CallContext(
        counts.name,
        Deadline.after(remaining_s),
        Origin(context.peer_name, context.caller_name or context.peer()),
        caller_name=context.caller_name,
        read_metadata=context.invocation_metadata,
    )
    context.at_end(call.release)
    try:
        call.deadline.check()  # because gRPC calls handlers even after the deadline has passed
        result = await body(request, call)
    except BaseException as error:  # every failure must be counted and logged
        if not _fail(endpoint, call, started, error, context):
            raise
        return None
    observer.call_ended(counts, call, started, None)
    return result


async def _write_all(
    connection: Connection, method: Stream, request: bytes, call: CallContext
) -> None:
    """Write each response that the method yields, after the previous one was accepted."""
    async with aclosing(method(request, call)) as responses:
        num_blocks = 0
        async for response in responses:
            await connection.write(response)
            num_blocks += 1
            call.log_fields["blocks"] = num_blocks


def _fail(
    endpoint: _Endpoint,
    call: CallContext,
    started: float,
    error: BaseException,
    context: OpenCall,
) -> bool:
    """Record a failed call and set its status. Returns False for a cancellation: it has no status.

    The caller re-raises a cancellation. If this function raised it, the traceback would lead to
    this frame, whose argument is the exception: a cycle, which keeps the request in memory until
    Python's garbage collector runs.
    """
    if isinstance(error, Exception) and not isinstance(error, RequestError):
        error = endpoint.observer.log.unexpected(call.name, error)
    endpoint.observer.call_ended(endpoint.counts, call, started, error)
    if isinstance(error, RequestError):
        refuse(context, error)
        return True
    return False


def refuse(context: OpenCall, error: RequestError) -> None:
    """Set the status of a call that failed.

    `context.abort` is not used, because gRPC keeps the exception that it raises in the call's
    state. The exception leads to frames that hold this state and the request: a cycle, which keeps
    the request in memory until Python's garbage collector runs.
    """
    context.set_code(code_of(error))
    context.set_details(error.message)
    context.set_trailing_metadata(trailing_metadata(error))
