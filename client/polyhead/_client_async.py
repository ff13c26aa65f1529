"""AsyncClient: the same calls as Client, awaited. Its twin documents them."""

# ruff: noqa: ASYNC109 - timeout= is the call's deadline, which gRPC tells the server

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar
from weakref import WeakSet

import grpc
import grpc.aio

from polyhead import _client_shared as shared
from polyhead._arguments import within
from polyhead._channel import checked_timeout, make_channel_config
from polyhead._replies import parse_attend_response
from polyhead._row_streams import AsyncRowStream
from polyhead._rpc_errors import from_rpc_error
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
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead.types import AttentionResult, ModelInfo, ServerInfo, TLSConfig, Weights
    from polyhead.v1.attention_pb2_grpc import AttentionServiceAsyncStub

__all__ = ["AsyncClient"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel, which gRPC ties to one event loop."""

    loop: asyncio.AbstractEventLoop
    channel: grpc.aio.Channel
    stub: AttentionServiceAsyncStub
    check_health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]


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
    ) -> None:
        self._target = target
        self._config = make_channel_config(target, tls=tls, timeout=timeout, metadata=metadata)
        self._connection: _Connection | None = None
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
        request, facts = shared.prepare_call(
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
        response = await self._call(self._connected().stub.Attend, request, timeout)
        return parse_attend_response(response, facts)

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
        with within("call"):
            request, facts = shared.prepare_call(
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
        rows_request = shared.build_attend_rows_request(request, rows_per_block)
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        call = self._connected().stub.AttendRows(
            rows_request, timeout=timeout_s, metadata=self._config.metadata
        )
        self._streams.add(call)
        return AsyncRowStream(aiter(call), call.cancel, facts, lambda: self._translated(timeout_s))

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
        if self._connection is not None:
            await self._connection.channel.close()

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

    def _connected(self) -> _Connection:
        if self._is_closed:
            raise ClientClosedError("this AsyncClient is closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._connection is None:
            self._connection = self._connect(loop)
        if self._connection.loop is not loop:
            raise ClientClosedError(
                "this AsyncClient belongs to another event loop, that of its first call: make one "
                "in each loop"
            )
        return self._connection

    def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        config = self._config
        if config.credentials is None:
            channel = grpc.aio.insecure_channel(config.target, config.options)
        else:
            channel = grpc.aio.secure_channel(config.target, config.credentials, config.options)
        return _Connection(
            loop=loop,
            channel=channel,
            stub=AttentionServiceStub(channel),
            check_health=channel.unary_unary(shared.HEALTH_CHECK),
        )

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
