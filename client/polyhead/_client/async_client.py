"""AsyncClient: the calls of Client for asyncio. Client documents the arguments."""

# ruff: noqa: ASYNC109 - timeout= is the call's deadline, which gRPC sends to the server

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Self, overload

from polyhead._calls.forward_errors import errors_name_arguments
from polyhead._calls.forward_response import parse_forward_response
from polyhead._checks import checked_positive, checked_switch
from polyhead._client import descriptions as shared
from polyhead._client import methods
from polyhead._client.async_connection import AsyncConnection
from polyhead._client.base import BaseClient
from polyhead._client.model_list import ModelList
from polyhead._stream.attend_many import (
    async_results_in_order,
    check_requests,
    check_shared,
    prepare_item,
)
from polyhead._stream.row_streams import AsyncRowStream
from polyhead.errors import ClientClosedError, DeadlineExceededError, ServerUnavailableError
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
    from typing import Literal, Unpack

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead._stream.async_stream import AwaitableRequest
    from polyhead._stream.attend_many import Item, SharedArguments
    from polyhead.errors import PolyheadError
    from polyhead.types import (
        AttentionResult,
        ForwardResult,
        LayerKey,
        ModelChange,
        ModelInfo,
        ServerInfo,
        Vectors,
        Weights,
    )


class AsyncClient(BaseClient[AsyncConnection]):
    """A connection to a polyhead server, for any number of tasks of one event loop.

    ::

        async with polyhead.AsyncClient("localhost:50051") as client:
            result = await client.attend(query, model="river-bank", need_weights=True)

    Arguments and errors are those of Client. The client belongs to the event loop of its first
    call, and may be made before there is one. Cancelling a task that awaits a call cancels the
    call on the server too.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _is_closed = False

    async def attend(
        self,
        query: ArrayLike,
        *,
        model: str,
        version: int | None = None,
        layer: LayerKey | None = None,
        key: ArrayLike | None = None,
        value: ArrayLike | None = None,
        attn_mask: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
        key_padding_mask: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        key_positions: ArrayLike | None = None,
        need_weights: bool | Weights = False,
        head_vectors: bool | Vectors = False,
        need_output: bool = True,
        output_dtype: DTypeLike | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AttentionResult:
        """Run one attention block on one batch; see Client.attend."""
        call = self._prepare(locals())  # the arguments alone, because nothing is assigned before
        return await self._next_connection().transport.send(call, self._timeout_s(timeout))

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

        Iterate over the result with ``async for``; it is not awaited. See Client.attend_many.
        ``requests`` may be an asynchronous iterable as well.
        """
        check_requests(requests, may_be_async=True)
        check_shared(shared)

        def submit(item: Item) -> AwaitableRequest:
            call, timeout = prepare_item(item, shared)
            return self._next_connection().stream.submit(call, self._timeout_s(timeout))

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
        layer: LayerKey | None = None,
        key: ArrayLike | None = None,
        value: ArrayLike | None = None,
        attn_mask: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
        key_padding_mask: ArrayLike | None = None,
        positions: ArrayLike | None = None,
        key_positions: ArrayLike | None = None,
        need_weights: bool | Weights = True,
        need_output: bool = True,
        output_dtype: DTypeLike | None = None,
        rows_per_block: int | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncRowStream:
        """Run one attention block, and return the result in blocks of query rows.

        Iterate over the result with ``async with`` and ``async for``; it is not awaited. See
        Client.attend_rows.
        """
        call = self._prepare_rows(locals())  # the arguments alone
        timeout_s, connection = self._timeout_s(timeout), self._next_connection()
        blocks = connection.attend_rows(
            call.message(), timeout=timeout_s, metadata=connection.unary.metadata
        )
        connection.row_calls.add(blocks)
        translate_errors = partial(connection.unary.translate_errors, timeout_s)
        return AsyncRowStream(aiter(blocks), blocks.cancel, call.expected, translate_errors)

    async def forward(
        self,
        text: str | Sequence[str] | None = None,
        *,
        model: str,
        version: int | None = None,
        text_pair: str | Sequence[str] | None = None,
        token_ids: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        input_features: ArrayLike | None = None,
        hidden_states: ArrayLike | None = None,
        first_layer: LayerKey | None = None,
        memory: ArrayLike | None = None,
        memory_lengths: ArrayLike | None = None,
        decoder_token_ids: ArrayLike | None = None,
        decoder_lengths: ArrayLike | None = None,
        truncate: bool = False,
        need_weights: bool | Weights | Mapping[LayerKey, bool | Weights] = False,
        head_vectors: bool | Vectors | Mapping[LayerKey, bool | Vectors] = False,
        need_hidden_states: bool | LayerKey | Sequence[LayerKey] = False,
        need_output: bool = True,
        last_layer: int | None = None,
        output_dtype: DTypeLike | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ForwardResult:
        """Run a whole model; see Client.forward."""
        call = self._prepare_forward(locals())  # the arguments alone
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        request = call.request.SerializeToString()
        with errors_name_arguments(call.expected):
            response = await connection.unary.call(connection.forward, request, timeout_s)
        return parse_forward_response(call.expected, response)

    async def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """List the server's models, by name and then version. Notebooks show a table."""
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        method = connection.stub.ListModels
        response = await connection.unary.call(method, pb.ListModelsRequest(), timeout_s)
        return ModelList(map(shared.parse_model, response.models))

    async def reload_models(self, *, timeout: float | None = None) -> list[ModelChange]:
        """Make the server load the changed models of its repository; return every change.

        Raises ModelUnavailableError if the server does not allow reloads (--model-control), or
        cannot read its repository.
        """
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        method = connection.stub.ReloadModels
        response = await connection.unary.call(method, pb.ReloadModelsRequest(), timeout_s)
        return [shared.parse_change(change) for change in response.changes]

    async def model(
        self, name: str, version: int | None = None, *, timeout: float | None = None
    ) -> ModelInfo:
        """Describe one model; version None means the newest. Raises ModelNotFoundError."""
        request = shared.build_get_model_request(name, version)
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        response = await connection.unary.call(connection.stub.GetModel, request, timeout_s)
        return shared.parse_model(response.model)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server: its version, what it runs on, and its limits."""
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        method = connection.stub.GetServerInfo
        response = await connection.unary.call(method, pb.GetServerInfoRequest(), timeout_s)
        return shared.parse_server_info(response)

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Return whether the server answers and reports SERVING (grpc.health.v1)."""
        connection, timeout_s = self._next_connection(), self._timeout_s(timeout)
        try:
            status = await connection.unary.call(connection.check_health, b"", timeout_s)
        except (ServerUnavailableError, DeadlineExceededError):
            return False
        return status == methods.SERVING

    async def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Check the server's health repeatedly, until it is ready.

        Raises DeadlineExceededError if it is not ready within ``timeout`` seconds.
        """
        for left_s in self._seconds_left(timeout):
            if await self.is_ready(timeout=left_s):
                return
            await asyncio.sleep(methods.POLL_INTERVAL_S)

    async def close(self) -> None:
        """Close the connection; calls under way end with RequestCancelledError."""
        self._is_closed = True
        for connection in self._connections:
            connection.cancel_rows()
        for connection in self._connections:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _next_connection(self) -> AsyncConnection:
        """Return the connection for the next call; open all of them at the first call."""
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
            self._open(partial(AsyncConnection, self._target, self._config, loop))
        if self._loop is not loop:
            raise ClientClosedError(
                "this AsyncClient belongs to another event loop, that of its first call: make one "
                "in each loop"
            )
        return next(self._round_robin)
