"""AsyncClient: the same calls as Client, awaited. Its twin documents them."""

# ruff: noqa: ASYNC109 - timeout= is the call's deadline, which gRPC tells the server

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from weakref import WeakSet, finalize

import grpc
import grpc.aio

from polyhead._arguments.checks import checked_positive, checked_switch, prefix_field_path
from polyhead._calls.request import prepare_call, prepare_rows_call
from polyhead._calls.response import parse_attend_response
from polyhead._client import descriptions as shared
from polyhead._client.channel import checked_timeout, make_channel_config
from polyhead._rpc_errors import from_rpc_error
from polyhead._stream.async_stream import AsyncStream
from polyhead._stream.attend_many import arguments_of, async_results_in_order, check_shared
from polyhead._stream.row_streams import AsyncRowStream
from polyhead.errors import (
    ClientClosedError,
    DeadlineExceededError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
)
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Literal, NoReturn, Unpack

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead._calls.request import PreparedCall
    from polyhead._client.channel import ChannelConfig, Transport
    from polyhead._stream.async_stream import AwaitableRequest
    from polyhead._stream.attend_many import Item, SharedArguments
    from polyhead.errors import PolyheadError
    from polyhead.types import AttentionResult, ModelInfo, ServerInfo, TLSConfig, Weights
    from polyhead.v1.attention_pb2_grpc import AttentionServiceAsyncStub

__all__ = ["AsyncClient"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel, which gRPC ties to one event loop; methods without a stub take and give bytes."""

    channel: grpc.aio.Channel
    stub: AttentionServiceAsyncStub
    attend: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    attend_rows: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    check_health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    stream: AsyncStream


def _connect(target: str, config: ChannelConfig, loop: asyncio.AbstractEventLoop) -> _Connection:
    if config.credentials is None:
        channel = grpc.aio.insecure_channel(config.target, config.options)
    else:
        channel = grpc.aio.secure_channel(config.target, config.credentials, config.options)
    attend_stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
    attend_stream = channel.stream_stream(shared.ATTEND_STREAM)
    return _Connection(
        channel=channel,
        stub=AttentionServiceStub(channel),
        attend=channel.unary_unary(shared.ATTEND),
        attend_rows=channel.unary_stream(shared.ATTEND_ROWS),
        check_health=channel.unary_unary(shared.HEALTH_CHECK),
        stream=AsyncStream(partial(attend_stream, metadata=config.metadata), target, loop),
    )


class AsyncClient:
    """A connection to a polyhead server, for any number of tasks of one event loop.

    ::

        async with polyhead.AsyncClient("localhost:50051") as client:
            result = await client.attend(query, model="river-bank", need_weights=True)

    Arguments and errors are those of Client. The client belongs to the event loop of its first
    call, and may be made before there is one. Cancelling a task that awaits a call cancels the
    call on the server too.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TLSConfig | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: Transport = "unary",
        connections: int = 1,
    ) -> None:
        self._target = target
        self._config = make_channel_config(
            target,
            tls=tls,
            timeout=timeout,
            metadata=metadata,
            transport=transport,
            connections=connections,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: list[_Connection] = []
        self._turns: cycle[_Connection]
        self._streams: WeakSet[grpc.aio.Call] = WeakSet()
        self._is_closed = False

    async def attend(
        self,
        query: ArrayLike,
        *,
        model: str,
        version: int | None = None,
        key: ArrayLike | None = None,
        value: ArrayLike | None = None,
        attn_mask: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        key_positions: ArrayLike | None = None,
        need_weights: bool | Weights = False,
        need_output: bool = True,
        output_dtype: DTypeLike | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AttentionResult:
        """Run one attention block on one batch; see Client.attend."""
        call = prepare_call(
            query,
            model=model,
            version=version,
            key=key,
            value=value,
            attn_mask=attn_mask,
            kv_lengths=kv_lengths,
            positions=positions,
            key_positions=key_positions,
            need_weights=need_weights,
            need_output=need_output,
            output_dtype=output_dtype,
            request_id=request_id,
        )
        if self._config.transport == "stream":
            return await self._submit(call, timeout).result()
        reply = await self._call(self._connected().attend, call.message(), timeout)
        return parse_attend_response(call.expected, reply)

    @overload
    def attend_many(
        self,
        requests: Iterable[Item] | AsyncIterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: Literal[False] = False,
        **shared: Unpack[SharedArguments],
    ) -> AsyncGenerator[AttentionResult, None]: ...

    @overload
    def attend_many(
        self,
        requests: Iterable[Item] | AsyncIterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: bool,
        **shared: Unpack[SharedArguments],
    ) -> AsyncGenerator[AttentionResult | PolyheadError, None]: ...

    def attend_many(
        self,
        requests: Iterable[Item] | AsyncIterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: bool = False,
        **shared: Unpack[SharedArguments],
    ) -> AsyncGenerator[Any, None]:
        """Run an attention block on one request after another; yield the results in their order.

        Not awaited but iterated over, with ``async for``; see Client.attend_many. ``requests`` may
        be asynchronous as well.
        """
        check_shared(shared)

        def submit(item: Item) -> AwaitableRequest:
            arguments = arguments_of(item, shared)
            timeout = arguments.pop("timeout", None)
            return self._submit(prepare_call(**arguments), timeout)

        return async_results_in_order(
            requests,
            submit,
            max_in_flight=checked_positive("max_in_flight", max_in_flight),
            return_exceptions=checked_switch("return_exceptions", return_exceptions),
        )

    def attend_rows(
        self,
        query: ArrayLike,
        *,
        model: str,
        version: int | None = None,
        key: ArrayLike | None = None,
        value: ArrayLike | None = None,
        attn_mask: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        key_positions: ArrayLike | None = None,
        need_weights: bool | Weights = True,
        need_output: bool = True,
        output_dtype: DTypeLike | None = None,
        rows_per_block: int | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncRowStream:
        """Run one attention block, and give its answer in blocks of query rows.

        Not awaited but iterated over, with ``async with`` and ``async for``; see
        Client.attend_rows.
        """
        with prefix_field_path("call"):
            call = prepare_call(
                query,
                model=model,
                version=version,
                key=key,
                value=value,
                attn_mask=attn_mask,
                kv_lengths=kv_lengths,
                positions=positions,
                key_positions=key_positions,
                need_weights=need_weights,
                need_output=need_output,
                output_dtype=output_dtype,
                request_id=request_id,
            )
        rows_call = prepare_rows_call(call, rows_per_block)
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        blocks = self._connected().attend_rows(
            rows_call.message(), timeout=timeout_s, metadata=self._config.metadata
        )
        self._streams.add(blocks)
        return AsyncRowStream(
            aiter(blocks), blocks.cancel, call.expected, lambda: self._translated(timeout_s)
        )

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """List the server's models, by name and then version."""
        request = pb.ListModelsRequest()
        response = await self._call(self._connected().stub.ListModels, request, timeout)
        return [shared.parse_model(model) for model in response.models]

    async def model(
        self, name: str, version: int | None = None, *, timeout: float | None = None
    ) -> ModelInfo:
        """Describe one model; version None is the newest. Raises ModelNotFoundError."""
        request = shared.build_get_model_request(name, version)
        response = await self._call(self._connected().stub.GetModel, request, timeout)
        return shared.parse_model(response.model)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server: its version, what it runs on, and its limits."""
        request = pb.GetServerInfoRequest()
        response = await self._call(self._connected().stub.GetServerInfo, request, timeout)
        return shared.parse_server_info(response)

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server is there and says that it serves (grpc.health.v1)."""
        try:
            status = await self._call(self._connected().check_health, b"", timeout)
        except (ServerUnavailableError, DeadlineExceededError):
            return False
        return status == shared.SERVING

    async def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the server is ready, however often that takes asking.

        Raises DeadlineExceededError if it is not within ``timeout`` seconds.
        """
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if await self.is_ready(timeout=left):
                return
            await asyncio.sleep(shared.POLL_INTERVAL_S)
        raise shared.not_ready_within(timeout_s, self._target)

    async def close(self) -> None:
        """Close the connection; calls under way end with RequestCancelledError."""
        self._is_closed = True
        for call in list(self._streams):  # gRPC ends only those that a task is waiting for
            call.cancel()
        for connection in self._connections:
            await connection.stream.close()
            await connection.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self._target!r})"

    def __reduce__(self) -> NoReturn:
        raise shared.not_copied(self)

    def _connected(self) -> _Connection:
        if self._is_closed:
            raise ClientClosedError("this AsyncClient is closed: make a new one")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise ClientClosedError(
                "this AsyncClient was called outside of an event loop: call it in a coroutine"
            ) from error
        if self._loop is None:
            self._loop = loop
            self._connections = [
                _connect(self._target, self._config, loop) for _ in range(self._config.connections)
            ]
            self._turns = cycle(self._connections)
            for connection in self._connections:
                # for a client that is forgotten: its streams' tasks do not hold it
                finalize(self, connection.stream.stop)
        if self._loop is not loop:
            raise ClientClosedError(
                "this AsyncClient belongs to another event loop, that of its first call: make one "
                "in each loop"
            )
        return next(self._turns)

    def _submit(self, call: PreparedCall, timeout: float | None) -> AwaitableRequest:
        stream = self._connected().stream
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        return stream.submit(call, timeout_s)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        with self._translated(timeout_s):
            response = await method(request, timeout=timeout_s, metadata=self._config.metadata)
        if response is None:  # gRPC's word for bytes that are no such message
            raise ServerError(f"the reply of {self._target} could not be read")
        return response

    @contextmanager
    def _translated(self, timeout_s: float) -> Iterator[None]:
        """Raise gRPC's errors as ours."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._target, timeout_s=timeout_s) from error
        except asyncio.CancelledError as error:
            # gRPC raises it as well when close() ends a call whose task nobody cancelled.
            task = asyncio.current_task()
            if self._is_closed and not (task and task.cancelling()):
                raise RequestCancelledError("close() ended the call", code="CANCELLED") from error
            raise
