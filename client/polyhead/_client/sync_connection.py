"""A connection of a Client: its channel, its methods, and the transport of attend."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from polyhead._calls.response import parse_attend_response
from polyhead._client import methods
from polyhead._client.base import BaseUnaryTransport
from polyhead._client.channel import is_connected, open_channel
from polyhead._stream.sync_stream import Stream, forked_client_error
from polyhead.errors import ClientClosedError
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub

if TYPE_CHECKING:
    import grpc

    from polyhead._calls.request import PreparedCall
    from polyhead._client.channel import ChannelConfig
    from polyhead.results import AttentionResult

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class UnaryTransport(BaseUnaryTransport):
    """Sends each call of attend, and of the other unary methods, as an RPC of its own."""

    def __init__(self, target: str, config: ChannelConfig, channel: grpc.Channel) -> None:
        super().__init__(target, config, partial(is_connected, channel))
        self._attend: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        self._attend = channel.unary_unary(methods.ATTEND)
        self._pid = os.getpid()

    def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a call of attend and wait for its result. Raises PolyheadError."""
        response = self.call(self._attend, call.message(), timeout_s)
        return parse_attend_response(call.expected, response)

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_s: float,
    ) -> _Response:
        """Call a method and wait for the response. Raises PolyheadError."""
        with self.translate_errors(timeout_s):
            return method(request, timeout=timeout_s, metadata=self.metadata)

    def _raise_if_closed(self, error: BaseException) -> None:
        if isinstance(error, ValueError):  # gRPC's error for a channel closed before the call
            if self.is_closed:
                raise ClientClosedError("this Client is closed: make a new one") from error
            if os.getpid() != self._pid:  # gRPC closes channels in the forked process
                raise forked_client_error() from error


class Connection:
    """A channel and its methods. Methods that are called without a stub take and return bytes."""

    def __init__(self, target: str, config: ChannelConfig) -> None:
        channel = open_channel(config)
        attend_stream: grpc.StreamStreamMultiCallable[bytes, bytes]
        attend_stream = channel.stream_stream(methods.ATTEND_STREAM)
        self.stream = Stream(
            partial(attend_stream, metadata=config.metadata), target, partial(is_connected, channel)
        )
        self.unary = UnaryTransport(target, config, channel)
        self.transport = self.stream if config.transport == "stream" else self.unary
        """Sends the calls of attend."""
        self.stub = AttentionServiceStub(channel)
        self.attend_rows: grpc.UnaryStreamMultiCallable[bytes, bytes]
        self.attend_rows = channel.unary_stream(methods.ATTEND_ROWS)
        self.forward: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        self.forward = channel.unary_unary(methods.FORWARD)
        self.check_health: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        self.check_health = channel.unary_unary(methods.HEALTH_CHECK)
        self._channel = channel

    def close(self) -> None:
        """End the calls under way with RequestCancelledError."""
        self.unary.is_closed = True
        if not self.stream.is_forked:  # a forked process lacks the threads that close waits for
            self.stream.close()
            self._channel.close()
