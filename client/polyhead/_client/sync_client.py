"""Client: calls that block."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload
from weakref import finalize

import grpc

from polyhead._arguments.checks import checked_positive, checked_switch, prefix_field_path
from polyhead._calls.request import prepare_call, prepare_rows_call
from polyhead._calls.response import parse_attend_response
from polyhead._client import descriptions as shared
from polyhead._client.channel import checked_timeout, make_channel_config
from polyhead._rpc_errors import from_rpc_error
from polyhead._stream.attend_many import arguments_of, check_shared, results_in_order
from polyhead._stream.row_streams import RowStream
from polyhead._stream.sync_stream import Stream, made_elsewhere
from polyhead.errors import ClientClosedError, DeadlineExceededError, ServerUnavailableError
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Literal, NoReturn, Unpack

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead._calls.request import PreparedCall
    from polyhead._client.channel import ChannelConfig, Transport
    from polyhead._stream.attend_many import Item, SharedArguments
    from polyhead._stream.sync_stream import BlockingRequest
    from polyhead.errors import PolyheadError
    from polyhead.types import AttentionResult, ModelInfo, ServerInfo, TLSConfig, Weights

__all__ = ["Client"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True, slots=True)
class _Connection:
    """A channel and its methods; those without a stub take and give bytes."""

    channel: grpc.Channel
    stub: AttentionServiceStub
    attend: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    attend_rows: grpc.UnaryStreamMultiCallable[bytes, bytes]
    check_health: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    stream: Stream


def _connect(target: str, config: ChannelConfig) -> _Connection:
    if config.credentials is None:
        channel = grpc.insecure_channel(config.target, config.options)
    else:
        channel = grpc.secure_channel(config.target, config.credentials, config.options)
    attend_stream: grpc.StreamStreamMultiCallable[bytes, bytes]
    attend_stream = channel.stream_stream(shared.ATTEND_STREAM)
    return _Connection(
        channel=channel,
        stub=AttentionServiceStub(channel),
        attend=channel.unary_unary(shared.ATTEND),
        attend_rows=channel.unary_stream(shared.ATTEND_ROWS),
        check_health=channel.unary_unary(shared.HEALTH_CHECK),
        stream=Stream(partial(attend_stream, metadata=config.metadata), target),
    )


class Client:
    """A connection to a polyhead server, for any number of threads.

    ::

        with polyhead.Client("localhost:50051") as client:
            result = client.attend(query, model="river-bank", need_weights=True)

    Connecting happens with the first call. Calls that find the server gone, or that it
    cancels because it stops, are tried up to four times within a second or so; nothing else is.

    ``target``: ``host:port``, ``[ipv6]:port``, ``unix:path``, or any target with gRPC's own
    schemes. ``tls``: None is plaintext; ``TLSConfig()`` trusts the usual authorities.
    ``timeout``: seconds that a call may take if it names no other, 60 by default.
    ``metadata``: text sent with every call, such as ``{"authorization": "Bearer ..."}``.
    ``transport``: how `attend` travels. ``"unary"``: each as a call of its own. ``"stream"``: those
    under way at the same time share one stream, which many small requests gain from; results and
    errors are the same. Other calls are unary either way.
    ``connections``: how many are opened and used in turn; a server with several workers
    (``polyhead serve --workers``) gives each to one of them.

    A forked process makes its own Client; gRPC wants GRPC_ENABLE_FORK_SUPPORT=1 in the environment
    of programs that fork while they use it.

    Whatever goes wrong is raised as a PolyheadError; see ``polyhead.errors``.
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
        self._connections = [_connect(target, self._config) for _ in range(connections)]
        self._turns = cycle(self._connections)
        # For a client that is forgotten: its streams' threads do not hold it, nor wait for ever.
        for connection in self._connections:
            finalize(self, connection.stream.stop)
        self._is_closed = False

    def attend(
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
        """Run one attention block on one batch.

        ``query``: (batch_size, q_seq_len, embed_dim), of float32, float16, float64 or ml_dtypes'
        bfloat16. A model without input projections (AttentionSpec.has_in_proj) also takes heads:
        (batch_size, num_heads, q_seq_len, head_dim), key and value likewise with num_kv_heads, and
        gives its output in the same form.
        ``model``, ``version``: which block; version None is the newest.
        ``key``: (batch_size, kv_seq_len, kdim), for cross-attention; None: `query`.
        ``value``: (batch_size, kv_seq_len, vdim), with a `key` of its own; None: `key`.
        ``attn_mask``: broadcastable to (batch_size, num_heads, q_seq_len, kv_seq_len). Of bool,
        True where a query MAY attend (PyTorch's key_padding_mask is the opposite); of a float
        type, added to the scaled scores.
        ``kv_lengths``: (batch_size,) integers, the number of valid keys of each sequence.
        ``positions``: (q_seq_len,) or (batch_size, q_seq_len) integers, for the model's rotary
        embedding; None: 0, 1, 2 and so on. Masks and biases go by place in the sequence instead.
        ``key_positions``: the same for the keys; None: `positions` if there is no `key`, and
        0, 1, 2 and so on if there is.
        ``need_weights``: True for all attention weights, Weights for some.
        ``need_output``: False leaves `output` out, where weights are all that is wanted.
        ``output_dtype``: such as ``"float16"``; None: that of `query`. NumPy has no bfloat16, so
        ``"bfloat16"`` comes back as float32, unless an ml_dtypes dtype was given.
        ``request_id``: comes back in the result and appears in the server's logs.
        ``timeout``: seconds; None: the client's.

        Raises InvalidArgumentError, before anything is sent where the fault can be seen here;
        ModelNotFoundError, ModelUnavailableError, ResourceExhaustedError, DeadlineExceededError,
        ServerUnavailableError and the rest of the tree.
        """
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
            return self._submit(call, timeout).result()
        reply = self._call(next(self._turns).attend, call.message(), timeout)
        return parse_attend_response(call.expected, reply)

    @overload
    def attend_many(
        self,
        requests: Iterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: Literal[False] = False,
        **shared: Unpack[SharedArguments],
    ) -> Generator[AttentionResult, None, None]: ...

    @overload
    def attend_many(
        self,
        requests: Iterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: bool,
        **shared: Unpack[SharedArguments],
    ) -> Generator[AttentionResult | PolyheadError, None, None]: ...

    def attend_many(
        self,
        requests: Iterable[Item],
        *,
        max_in_flight: int = 64,
        return_exceptions: bool = False,
        **shared: Unpack[SharedArguments],
    ) -> Generator[Any, None, None]:
        """Run an attention block on one request after another; yield the results in their order.

        The requests go over a stream, whatever the client's transport: that costs less than a call
        of attend for each, and the server runs small ones together::

            for result in client.attend_many(queries, model="bert", need_weights=True):
                ...

        ``requests``: queries, or dicts of attend's arguments. They are read as the results are:
        ``max_in_flight`` of them, and what these gave, are held at once. A result that has come is
        yielded when the next of them has been read: where the input waits, so does the result,
        unless ``max_in_flight`` is 1. (AsyncClient's do not wait.)
        ``return_exceptions``: True yields the error of a request in its place. Otherwise it is
        raised there and ends the iteration, and what is under way is cancelled, as it is when what
        this returns is closed.
        ``shared``: arguments of attend for requests that do not name their own; `timeout` is each
        request's, from when it is sent.
        """
        check_shared(shared)

        def submit(item: Item) -> BlockingRequest:
            arguments = arguments_of(item, shared)
            timeout = arguments.pop("timeout", None)
            return self._submit(prepare_call(**arguments), timeout)

        return results_in_order(
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
    ) -> RowStream:
        """Run one attention block, and give its answer in blocks of query rows, in order.

        Full attention weights of long sequences go through bounded memory on both sides: the
        server computes a block when there is room for it, and one is held here at a time::

            shape = (batch_size, num_heads, seq_len, seq_len)
            weights = np.lib.format.open_memmap("weights.npy", "w+", np.float16, shape)
            wanted = Weights(dtype="float16")
            with client.attend_rows(
                query, model="bert", need_weights=wanted, need_output=False, timeout=3600
            ) as blocks:
                for rows in blocks:
                    weights[:, :, rows.queries] = rows.attn_weights

        Leaving the ``with``, or closing what this returns, ends the call on the server as well.

        ``need_weights``: True unless you say otherwise. Of a selection, `queries` says which rows
        come at all, outputs included.
        ``rows_per_block``: query rows in a block; None: as many as the server finds fit.
        ``timeout``: seconds for all blocks together; None: the client's.
        Other arguments, and errors, are those of attend, with ``call.`` before the paths in
        `fields`; errors that the server finds later are raised by the iteration.
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
        with self._translated(timeout_s):
            blocks = next(self._turns).attend_rows(
                rows_call.message(), timeout=timeout_s, metadata=self._config.metadata
            )
        return RowStream(blocks, call.expected, lambda: self._translated(timeout_s))

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """List the server's models, by name and then version."""
        response = self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout)
        return [shared.parse_model(model) for model in response.models]

    def model(
        self, name: str, version: int | None = None, *, timeout: float | None = None
    ) -> ModelInfo:
        """Describe one model; version None is the newest. Raises ModelNotFoundError."""
        request = shared.build_get_model_request(name, version)
        return shared.parse_model(self._call(self._stub.GetModel, request, timeout).model)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server: its version, what it runs on, and its limits."""
        response = self._call(self._stub.GetServerInfo, pb.GetServerInfoRequest(), timeout)
        return shared.parse_server_info(response)

    def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server is there and says that it serves (grpc.health.v1)."""
        try:
            return self._call(next(self._turns).check_health, b"", timeout) == shared.SERVING
        except (ServerUnavailableError, DeadlineExceededError):
            return False

    def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the server is ready, however often that takes asking.

        Raises DeadlineExceededError if it is not within ``timeout`` seconds.
        """
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            if self.is_ready(timeout=left):
                return
            time.sleep(shared.POLL_INTERVAL_S)
        raise shared.not_ready_within(timeout_s, self._target)

    def close(self) -> None:
        """Close the connection; calls under way end with RequestCancelledError."""
        self._is_closed = True
        for connection in self._connections:
            if not connection.stream.is_forked:  # or it would wait for threads that are not here
                connection.stream.close()
                connection.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _stub(self) -> AttentionServiceStub:
        return next(self._turns).stub

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def __reduce__(self) -> NoReturn:
        raise shared.not_copied(self)

    def _submit(self, call: PreparedCall, timeout: float | None) -> BlockingRequest:
        stream = next(self._turns).stream
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        return stream.submit(call, timeout_s)

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        timeout_s = checked_timeout(timeout, self._config.timeout_s)
        with self._translated(timeout_s):
            return method(request, timeout=timeout_s, metadata=self._config.metadata)

    @contextmanager
    def _translated(self, timeout_s: float) -> Iterator[None]:
        """Raise gRPC's errors as ours."""
        try:
            yield
        except grpc.RpcError as error:
            raise from_rpc_error(error, target=self._target, timeout_s=timeout_s) from error
        except ValueError as error:  # gRPC's word for a channel closed before the call
            if self._is_closed:
                raise ClientClosedError("this Client is closed: make a new one") from error
            if self._connections[0].stream.is_forked:  # gRPC has closed them here
                raise made_elsewhere() from error
            raise
