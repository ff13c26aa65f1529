"""The outermost layer of every call: makes gRPC handlers of plain methods.

A method takes the bytes of a request and returns those of a response, yields those of several
responses, or reads and writes messages itself. Every exception is mapped to a gRPC status here and
nowhere else. Unexpected ones become INTERNAL with an incident id that is also logged. Each call is
logged in one line.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from polyhead_server.deadline import Deadline
from polyhead_server.errors import RequestError
from polyhead_server.rpc.caller import current_caller, identify_caller
from polyhead_server.rpc.status import code_of, trailing_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]
    Method = Callable[[bytes, "CallContext"], Awaitable[bytes]]
    Stream = Callable[[bytes, "CallContext"], AsyncGenerator[bytes, None]]
    Conversation = Callable[["Connection", "CallContext"], Awaitable[None]]

__all__ = [
    "CallContext",
    "Connection",
    "internal_error",
    "log_call",
    "refusing_handler",
    "service_handler",
]

_LOG = logging.getLogger("polyhead.rpc")
_T = TypeVar("_T")
_Input = TypeVar("_Input")


class Logged(Protocol):
    """A request that has fields for the log."""

    def log_fields(self) -> dict[str, object]:
        """Return the fields."""


@dataclass(slots=True)
class CallContext:
    """What a method knows about its call."""

    name: str
    """Service/Method."""
    deadline: Deadline
    """When the caller stops waiting."""
    caller: str = ""
    """Who calls, as identify_caller() says."""
    request: Logged | None = None
    """The decoded request, which the method sets for the log."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """Further fields that the method adds to the call's log line."""


class Connection:
    """The two message streams of a call."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        """Wait for the caller's next message; None at the end of the stream."""
        message: object = await self._context.read()
        return message if isinstance(message, bytes) else None  # otherwise it is grpc.aio.EOF

    async def write(self, response: bytes) -> None:
        """Send one message, and wait until the transport has accepted it."""
        try:
            await self._context.write(response)
        except grpc.aio.BaseError:  # the connection broke; gRPC cancels the call only later
            raise asyncio.CancelledError from None


def service_handler(
    service: str,
    methods: dict[str, Method],
    streams: dict[str, Stream] | None = None,
    conversations: dict[str, Conversation] | None = None,
) -> grpc.GenericRpcHandler:
    """Make a service's handler without (de)serializers, so that its methods take and return bytes.

    `methods` return one response. `streams` yield responses, each after the transport has accepted
    the one before. `conversations` read and write messages themselves.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        # for a failed call None is returned, and gRPC sends the status and no message
        name: grpc.unary_unary_rpc_method_handler(
            partial(_handle_call, f"{service}/{name}", method)
        )
        for name, method in methods.items()
    }
    for name, stream in (streams or {}).items():
        handlers[name] = grpc.unary_stream_rpc_method_handler(_stream(f"{service}/{name}", stream))
    for name, conversation in (conversations or {}).items():
        handlers[name] = grpc.stream_stream_rpc_method_handler(
            _conversation(f"{service}/{name}", conversation)
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def refusing_handler(name: str, error: RequestError) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Make a handler that refuses a call of any kind, before any of its messages is read."""

    async def refuse(_: Connection, __: CallContext) -> None:
        raise error

    return grpc.stream_stream_rpc_method_handler(_conversation(name, refuse))


def _stream(name: str, method: Stream) -> Callable[[bytes, ServicerContext], Awaitable[None]]:
    async def handle(request: bytes, context: ServicerContext) -> None:
        write_all = partial(_write_all, Connection(context), method)
        await _handle_call(name, write_all, request, context)

    return handle


def _conversation(
    name: str, method: Conversation
) -> Callable[[object, ServicerContext], Awaitable[None]]:
    async def handle(_: object, context: ServicerContext) -> None:
        await _handle_call(name, method, Connection(context), context)

    return handle


async def _handle_call(
    name: str,
    body: Callable[[_Input, CallContext], Awaitable[_T]],
    request: _Input,
    context: ServicerContext,
) -> _T | None:
    """Run a call, log it and set its status. Returns None if it failed. Raises CancelledError."""
    remaining_s: float | None = context.time_remaining()  # None: no deadline
    call = CallContext(name, Deadline.after(remaining_s), identify_caller(context))
    started = time.monotonic()
    try:
        call.deadline.check()  # because gRPC calls handlers even after the deadline has passed
        result = await body(request, call)
    except BaseException as error:  # every failure must be logged
        if not _fail(call, started, error, context):
            raise
        return None
    log_call(name, started, call.request, None, call.log_fields)
    return result


async def _write_all(
    connection: Connection, method: Stream, request: bytes, call: CallContext
) -> None:
    """Write each response that the method yields, after the one before was accepted."""
    async with aclosing(method(request, call)) as responses:
        num_blocks = 0
        async for response in responses:
            await connection.write(response)
            num_blocks += 1
            call.log_fields["blocks"] = num_blocks


def _fail(
    call: CallContext, started: float, error: BaseException, context: ServicerContext
) -> bool:
    """Log how a call failed and set its status; False for a cancellation, which has no status.

    The caller re-raises a cancellation. If this function raised it, the traceback would lead to
    this frame, whose argument is the exception: a cycle, which keeps the request in memory until
    Python's garbage collector runs.
    """
    if isinstance(error, Exception) and not isinstance(error, RequestError):
        error = internal_error(call.name, error)
    if isinstance(error, RequestError | asyncio.CancelledError):
        log_call(call.name, started, call.request, error, call.log_fields)
    if isinstance(error, RequestError):
        _refuse(context, error)
        return True
    return False


def internal_error(name: str, error: Exception) -> RequestError:
    """Log an unexpected error, and make the error that the caller gets."""
    incident = uuid.uuid4().hex[:12]
    _LOG.error("unexpected error", exc_info=error, extra={"method": name, "incident": incident})
    return RequestError(f"internal error, incident {incident}", "INTERNAL")


def log_call(
    name: str,
    started: float,
    request: Logged | None,
    error: BaseException | None,
    log_fields: dict[str, object] | None = None,
    *,
    times: int = 1,
) -> None:
    """Log a call: a success at level debug, anything else at info.

    ``times``: how many calls have the same fields; each gets its line.
    """
    level = logging.DEBUG if error is None else logging.INFO
    if not _LOG.isEnabledFor(level):
        return
    took_ms = round((time.monotonic() - started) * 1e3, 3)
    fields: dict[str, object] = {"method": name, "code": "OK", "took_ms": took_ms}
    if caller := current_caller():
        fields["caller"] = caller
    fields |= (request.log_fields() if request else {}) | (log_fields or {})
    if isinstance(error, RequestError):
        fields |= {"code": code_of(error).name, "reason": error.reason, "why": error.message}
    elif error is not None:
        fields["code"] = "CANCELLED"
    for _ in range(times):
        _LOG.log(level, "call", extra=fields)


def _refuse(context: ServicerContext, error: RequestError) -> None:
    """Set the status of a call that failed.

    `context.abort` is not used, because gRPC keeps the exception that it raises in the call's
    state. The exception leads to frames that hold this state and the request: a cycle, which keeps
    the request in memory until Python's garbage collector runs.
    """
    context.set_code(code_of(error))
    context.set_details(error.message)
    context.set_trailing_metadata(trailing_metadata(error))
