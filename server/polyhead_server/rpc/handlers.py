"""From raw gRPC calls to plain methods: the outermost layer of every call.

A method takes a request's bytes and gives a response's, one after the other, or reads and writes
them as they come. Whatever it raises becomes a status here, once; what nobody foresaw becomes
"internal error" with an id that is in the log. Each call has one line there.
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
from polyhead_server.rpc.status import code_of, trailing_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]
    Method = Callable[[bytes, "CallContext"], Awaitable[bytes]]
    Stream = Callable[[bytes, "CallContext"], AsyncGenerator[bytes, None]]
    Conversation = Callable[["Connection", "CallContext"], Awaitable[None]]

__all__ = ["CallContext", "Connection", "log_call", "service_handler", "internal_error"]

_LOG = logging.getLogger("polyhead.rpc")
_T = TypeVar("_T")
_Input = TypeVar("_Input")


class Logged(Protocol):
    """A request that the log can tell of."""

    def log_fields(self) -> dict[str, object]:
        """What to tell."""


@dataclass(slots=True)
class CallContext:
    """What a method may know of the call around it."""

    name: str
    """Service/Method."""
    deadline: Deadline
    """When the caller stops waiting."""
    request: Logged | None = None
    """Set by the method, for the log."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """What else the method adds to the call's line in the log."""


class Connection:
    """A call's two streams of messages."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def read(self) -> bytes | None:
        """Wait for the caller's next message; None: there will be no more."""
        message: object = await self._context.read()
        return message if isinstance(message, bytes) else None  # else gRPC's sign of the end

    async def write(self, response: bytes) -> None:
        """Send one response of several, and wait until the transport has taken it."""
        try:
            await self._context.write(response)
        except grpc.aio.BaseError:  # the connection broke, which gRPC tells the writer first
            raise asyncio.CancelledError from None


def service_handler(
    service: str,
    methods: dict[str, Method],
    streams: dict[str, Stream] | None = None,
    conversations: dict[str, Conversation] | None = None,
) -> grpc.GenericRpcHandler:
    """Register a service's methods without (de)serializers: they see the bytes as they came.

    `methods` answer once, `streams` as often as they yield, each time when the one before has been
    taken, and `conversations` read and write by themselves.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(_unary(f"{service}/{name}", method))
        for name, method in methods.items()
    }
    for name, stream in (streams or {}).items():
        handlers[name] = grpc.unary_stream_rpc_method_handler(_stream(f"{service}/{name}", stream))
    for name, conversation in (conversations or {}).items():
        handlers[name] = grpc.stream_stream_rpc_method_handler(
            _conversation(f"{service}/{name}", conversation)
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def _unary(
    name: str, method: Method
) -> Callable[[bytes, ServicerContext], Awaitable[bytes | None]]:
    # None where it is refused: gRPC then sends the status, and no message
    return partial(_handle_call, name, method)


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
    """Run a call's body: its end is logged, and is the call's status; None: it was refused."""
    remaining_s: float | None = context.time_remaining()  # None: no deadline
    call, started = CallContext(name, Deadline.after(remaining_s)), time.monotonic()
    try:
        call.deadline.check()  # gRPC starts handlers even of calls whose deadline has passed
        result = await body(request, call)
    except BaseException as error:  # the last line of defence: all is told
        if not _fail(call, started, error, context):
            raise
        return None
    log_call(name, started, call.request, None, call.log_fields)
    return result


async def _write_all(
    connection: Connection, method: Stream, request: bytes, call: CallContext
) -> None:
    """Send responses as they come, each when the one before has been taken."""
    async with aclosing(method(request, call)) as responses:
        num_blocks = 0
        async for response in responses:
            await connection.write(response)
            num_blocks += 1
            call.log_fields["blocks"] = num_blocks


def _fail(
    call: CallContext,
    started: float,
    error: BaseException,
    context: ServicerContext,
) -> bool:
    """Log how a call failed, and give it its status; whether it has one: a cancellation has none.

    That goes on its way, but not from here: raised with this frame, which knows it, in its
    traceback, it would be a cycle that keeps the request.
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
    """Log an error that nobody foresaw, and give what to tell the caller of it."""
    incident = uuid.uuid4().hex[:12]
    _LOG.error("unforeseen error", exc_info=error, extra={"method": name, "incident": incident})
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
    """Write a call's line: successes at the level debug, others at info.

    ``times``: how many calls it is that have the same to tell.
    """
    level = logging.DEBUG if error is None else logging.INFO
    if not _LOG.isEnabledFor(level):
        return
    took_ms = round((time.monotonic() - started) * 1e3, 3)
    fields: dict[str, object] = {"method": name, "code": "OK", "took_ms": took_ms}
    fields |= (request.log_fields() if request else {}) | (log_fields or {})
    if isinstance(error, RequestError):
        fields |= {"code": code_of(error).name, "reason": error.reason, "why": error.message}
    elif error is not None:
        fields["code"] = "CANCELLED"
    for _ in range(times):
        _LOG.log(level, "call", extra=fields)


def _refuse(context: ServicerContext, error: RequestError) -> None:
    """Give the call its status.

    Not by `context.abort`: gRPC keeps the exception that this raises in the call's own state, whose
    frames hold that state and the request, until Python's collector finds the cycle.
    """
    context.set_code(code_of(error))
    context.set_details(error.message)
    context.set_trailing_metadata(trailing_metadata(error))
