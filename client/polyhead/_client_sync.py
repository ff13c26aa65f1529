"""Client: calls that block."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from polyhead import _client_shared as shared
from polyhead._arguments import within
from polyhead._channel import checked_timeout, make_channel_config
from polyhead._replies import parse_attend_response
from polyhead._row_streams import RowStream
from polyhead._rpc_errors import from_rpc_error
from polyhead.errors import ClientClosedError, DeadlineExceededError, ServerUnavailableError
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead.types import AttentionResult, ModelInfo, ServerInfo, TLSConfig, Weights

__all__ = ["Client"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a polyhead server, for any number of threads.

    ::

        with polyhead.Client("localhost:50051") as client:
            result = client.attend(query, model="river-bank", need_weights=True)

    Connecting happens with the first call. Calls that find the server gone are tried again, up
    to four times within a second or so; nothing else is.

    ``target``: ``host:port``, ``[ipv6]:port``, ``unix:path``, or any target with gRPC's own
    schemes. ``tls``: None is plaintext; ``TLSConfig()`` trusts the usual authorities.
    ``timeout``: seconds that a call may take if it names no other, 60 by default.
    ``metadata``: text sent with every call, such as ``{"authorization": "Bearer ..."}``.

    Whatever goes wrong is raised as a PolyheadError; see ``polyhead.errors``.
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
        self._channel = self._make_channel()
        self._stub = AttentionServiceStub(self._channel)
        self._check_health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            shared.HEALTH_CHECK
        )
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
        response = self._call(self._stub.Attend, request, timeout)
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
        with self._translated(timeout_s):
            call = self._stub.AttendRows(
                rows_request, timeout=timeout_s, metadata=self._config.metadata
            )
        return RowStream(iter(call), call.cancel, facts, lambda: self._translated(timeout_s))

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
            return self._call(self._check_health, b"", timeout) == shared.SERVING
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
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._target!r})"

    def _make_channel(self) -> grpc.Channel:
        config = self._config
        if config.credentials is None:
            return grpc.insecure_channel(config.target, config.options)
        return grpc.secure_channel(config.target, config.credentials, config.options)

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
            if not self._is_closed:
                raise
            raise ClientClosedError("this Client is closed: make a new one") from error
