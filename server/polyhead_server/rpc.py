"""From raw gRPC calls to plain methods: the outermost layer of every call.

A method takes a request's bytes and gives a response's, or one after the other. Whatever it raises
becomes a status here, once; what nobody foresaw becomes "internal error" with an id that is in the
log. Each call has one line there.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import grpc

from polyhead_server.deadline import Deadline
from polyhead_server.errors import RequestError
from polyhead_server.status import code_of, trailing_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]
    Method = Callable[[bytes, "CallContext"], Awaitable[bytes]]
    Stream = Callable[[bytes, "CallContext"], AsyncGenerator[bytes, None]]

__all__ = ["CallContext", "service_handler"]

_LOG = logging.getLogger("polyhead.rpc")


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a method may know of the call around it."""

    deadline: Deadline
    """When the caller stops waiting."""
    log_fields: dict[str, object] = field(default_factory=dict)
    """What the method adds to the call's line in the log."""


def service_handler(
    service: str, methods: dict[str, Method], streams: dict[str, Stream] | None = None
) -> grpc.GenericRpcHandler:
    """Register a service's methods without (de)serializers: they see the bytes as they came.

    `methods` answer once, `streams` as often as they yield, each time when the one before has been
    taken.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        name: grpc.unary_unary_rpc_method_handler(_unary(f"{service}/{name}", method))
        for name, method in methods.items()
    }
    for name, stream in (streams or {}).items():
        handlers[name] = grpc.unary_stream_rpc_method_handler(_stream(f"{service}/{name}", stream))
    return grpc.method_handlers_generic_handler(service, handlers)


def _unary(name: str, method: Method) -> Callable[[bytes, ServicerContext], Awaitable[bytes]]:
    async def handle(request: bytes, context: ServicerContext) -> bytes:
        async with _answering(name, context) as call:
            call.deadline.check()  # gRPC starts handlers even of calls whose deadline has passed
            return await method(request, call)
        return b""  # refused: gRPC sends the status, and no message

    return handle


def _stream(name: str, method: Stream) -> Callable[[bytes, ServicerContext], Awaitable[None]]:
    async def handle(request: bytes, context: ServicerContext) -> None:
        async with _answering(name, context) as call:
            call.deadline.check()
            await _write_all(context, call, method(request, call))

    return handle


async def _write_all(
    context: ServicerContext, call: CallContext, responses: AsyncGenerator[bytes, None]
) -> None:
    """Send responses as they come, each when the one before has been taken."""
    async with aclosing(responses):
        num_blocks = 0
        async for response in responses:
            await _write(context, response)
            num_blocks += 1
            call.log_fields["blocks"] = num_blocks


async def _write(context: ServicerContext, response: bytes) -> None:
    """Send one response of several, and wait until the transport has taken it."""
    try:
        await context.write(response)
    except grpc.aio.BaseError:  # the connection broke, which gRPC tells the writer first
        raise asyncio.CancelledError from None


@asynccontextmanager
async def _answering(name: str, context: ServicerContext) -> AsyncIterator[CallContext]:
    """Surround a call: its deadline, its errors, its line in the log."""
    started = time.monotonic()
    remaining_s = cast("float | None", context.time_remaining())  # None: no deadline
    call = CallContext(Deadline.after(remaining_s))
    code = "OK"
    try:
        yield call
    except RequestError as error:
        code = code_of(error).name
        call.log_fields.update(reason=error.reason, why=error.message)
        _refuse(context, error)
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    except Exception:  # noqa: BLE001 - the last line of defence: nothing leaks, all is logged
        code = "INTERNAL"
        incident = uuid.uuid4().hex[:12]
        _LOG.exception("unforeseen error", extra={"method": name, "incident": incident})
        _refuse(context, RequestError(f"internal error, incident {incident}", "INTERNAL"))
    finally:
        level = logging.DEBUG if code == "OK" else logging.INFO
        if _LOG.isEnabledFor(level):
            took_ms = round((time.monotonic() - started) * 1e3, 3)
            fields = {"method": name, "code": code, "took_ms": took_ms, **call.log_fields}
            _LOG.log(level, "call", extra=fields)


def _refuse(context: ServicerContext, error: RequestError) -> None:
    """Give the call its status.

    Not by `context.abort`: gRPC keeps the exception that this raises in the call's own state, whose
    frames hold that state and the request, until Python's collector finds the cycle.
    """
    context.set_code(code_of(error))
    context.set_details(error.message)
    context.set_trailing_metadata(trailing_metadata(error))
