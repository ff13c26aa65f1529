"""A connection of an AsyncClient: its channel, its methods, and the transport of attend."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import grpc.aio

from polyhead._calls.response import parse_attend_response
from polyhead._client import methods
from polyhead._client.base import BaseUnaryTransport
from polyhead._stream.async_stream import AsyncStream
from polyhead.errors import RequestCancelledError, ServerError
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub

if TYPE_CHECKING:
    from polyhead._calls.request import PreparedCall
    from polyhead._client.channel import ChannelConfig
    from polyhead.results import AttentionResult
    from polyhead.v1.attention_pb2_grpc import AttentionServiceAsyncStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncUnaryTransport(BaseUnaryTransport):
    """Sends each call of attend, and of the other unary methods, as an RPC of its own."""

    def __init__(self, target: str, config: ChannelConfig, channel: grpc.aio.Channel) -> None:
        super().__init__(target, config, partial(_is_connected, channel))
        self._attend: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self._attend = channel.unary_unary(methods.ATTEND)

    async def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a call of attend and await its result. Raises PolyheadError."""
        response = await self.call(self._attend, call.message(), timeout_s)
        return parse_attend_response(call.expected, response)

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        """Call a method and await the response. Raises PolyheadError."""
        with self.translate_errors(timeout_s):
            response = await method(request, timeout=timeout_s, metadata=self.metadata)
        if response is None:  # gRPC returns None for a response that it cannot parse
            raise ServerError(f"the reply of {self.target} could not be read")
        return response

    def _raise_if_closed(self, error: BaseException) -> None:
        # gRPC raises CancelledError also when close() ends a call whose task nobody cancelled.
        if self.is_closed and isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if not (task and task.cancelling()):
                raise RequestCancelledError("close() ended the call", code="CANCELLED") from error


class AsyncConnection:
    """A channel, which gRPC ties to one event loop, and its methods.

    Methods that are called without a stub take and return bytes.
    """

    def __init__(self, target: str, config: ChannelConfig, loop: asyncio.AbstractEventLoop) -> None:
        if config.credentials is None:
            channel = grpc.aio.insecure_channel(config.target, config.options)
        else:
            channel = grpc.aio.secure_channel(config.target, config.credentials, config.options)
        attend_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        attend_stream = channel.stream_stream(methods.ATTEND_STREAM)
        self.stream = AsyncStream(
            partial(attend_stream, metadata=config.metadata),
            target,
            loop,
            partial(_is_connected, channel),
        )
        self.unary = AsyncUnaryTransport(target, config, channel)
        self.transport = self.stream if config.transport == "stream" else self.unary
        """Sends the calls of attend."""
        self.stub: AttentionServiceAsyncStub = AttentionServiceStub(channel)
        self.attend_rows: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        self.attend_rows = channel.unary_stream(methods.ATTEND_ROWS)
        self.forward: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.forward = channel.unary_unary(methods.FORWARD)
        self.check_health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        self.check_health = channel.unary_unary(methods.HEALTH_CHECK)
        self.row_calls: WeakSet[grpc.aio.Call] = WeakSet()
        self._channel = channel

    def cancel_rows(self) -> None:
        """Begin to close: end the calls of attend_rows."""
        self.unary.is_closed = True
        for call in list(self.row_calls):  # gRPC's close ends only calls that a task waits for
            call.cancel()

    async def close(self) -> None:
        """End the calls under way with RequestCancelledError."""
        await self.stream.close()
        await self._channel.close()


def _is_connected(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.READY
