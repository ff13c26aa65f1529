"""Client: synchronous calls."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self, overload

from polyhead._calls.forward_errors import errors_name_arguments
from polyhead._calls.forward_response import parse_forward_response
from polyhead._checks import checked_positive, checked_switch
from polyhead._client import descriptions as shared
from polyhead._client import methods
from polyhead._client.base import BaseClient
from polyhead._client.model_list import ModelList
from polyhead._client.sync_connection import Connection
from polyhead._stream.attend_many import (
    check_requests,
    check_shared,
    prepare_item,
    results_in_order,
)
from polyhead._stream.row_streams import RowStream
from polyhead.errors import DeadlineExceededError, ServerUnavailableError
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from typing import Literal, Unpack

    from numpy.typing import ArrayLike, DTypeLike

    from polyhead._stream.attend_many import Item, SharedArguments
    from polyhead._stream.sync_stream import BlockingRequest
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


class Client(BaseClient[Connection]):
    """A connection to a polyhead server, for any number of threads.

    ::

        with polyhead.Client("localhost:50051") as client:
            result = client.attend(query, model="river-bank", need_weights=True)

    The client connects with its first call. A call is tried again, up to four times within 1.5
    seconds, if the server cannot be reached, or cancels the call because it stops. Calls that fail
    otherwise are not tried again.

    ``target``: ``host:port``, ``[ipv6]:port``, ``unix:path``, or a target with one of gRPC's
    schemes. ``https://host:port`` means ``host:port`` with ``tls=True``.
    ``tls``: None means plaintext. True trusts the usual authorities.
    ``TLSConfig(root_certificates="ca.pem")`` trusts your own authority.
    ``timeout``: seconds that a call may take if it has no timeout of its own; 60 by default.
    ``metadata``: text sent with every call.
    ``token``: a token that `polyhead token new` printed, sent with every call. None means the
    environment variable POLYHEAD_TOKEN, if it is set. A token is refused without TLS, unless the
    server is on this machine or ``allow_plaintext_token`` is True.
    ``transport``: ``"unary"`` sends each `attend` as a call of its own. ``"stream"`` sends the
    requests under way at the same time over one stream, which is faster for many small requests.
    Results and errors are the same. All other calls are unary with both.
    ``connections``: number of connections, which are used in turn. A server with several workers
    (``polyhead serve --workers``) assigns each connection to one of them.

    A forked process must make its own Client. gRPC needs GRPC_ENABLE_FORK_SUPPORT=1 in the
    environment of programs that fork while they use it.

    Every failure is raised as a PolyheadError; see ``polyhead.errors``.
    """

    def _start(self) -> None:
        self._open(partial(Connection, self._target, self._config))

    def attend(
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
        """Run one attention block on one batch.

        ``query``: (batch_size, q_seq_len, embed_dim), of float32, float16, float64 or ml_dtypes'
        bfloat16; lists of numbers become float32. A model without input projections
        (AttentionSpec.has_in_proj) also takes heads: (batch_size, num_heads, q_seq_len, head_dim),
        key and value likewise with num_kv_heads. Its output then has the same form.
        ``model``, ``version``: the model; version None means the newest.
        ``layer``: a layer of a whole model: its number, or a pair (see LayerKey).
        ``key``: (batch_size, kv_seq_len, kdim), for cross-attention; None means `query`.
        ``value``: (batch_size, kv_seq_len, vdim), together with `key`; None means `key`.
        ``attn_mask``: broadcastable to (batch_size, num_heads, q_seq_len, kv_seq_len). In a bool
        mask True means that a query MAY attend. A mask of floats is added to the scaled scores. A
        mask of two axes is (q_seq_len, kv_seq_len), the same for all sequences, and never
        (batch_size, kv_seq_len).
        ``kv_lengths``: (batch_size,) integers, the number of valid keys of each sequence.
        ``key_padding_mask``: (batch_size, kv_seq_len), True or 1 where a key is valid, False or 0
        where it is padding, as transformers' attention_mask. The argument of this name of
        torch.nn.MultiheadAttention means the opposite.
        ``positions``: (q_seq_len,) or (batch_size, q_seq_len) integers, for the model's rotary
        embedding; None means 0, 1, 2 and so on. Masks and biases do not depend on them, but on the
        index in the sequence.
        ``key_positions``: the positions of the keys. None means 0, 1, 2 and so on with a `key`,
        and `positions` without one.
        ``need_weights``: True for all attention weights, Weights for a selection.
        ``head_vectors``: True for the query, key and value vectors of all heads, Vectors for a
        selection, which may have contexts too.
        ``need_output``: False if only weights or vectors are needed; the result has no `output`.
        ``output_dtype``: such as ``"float16"``; None means the dtype of `query`. NumPy has no
        bfloat16, so ``"bfloat16"`` is returned as float32, unless it is an ml_dtypes dtype.
        ``request_id``: is repeated in the result, and appears in the server's logs.
        ``timeout``: seconds; None means the client's timeout.

        Raises InvalidArgumentError, before anything is sent if the client can detect the error;
        ModelNotFoundError, ModelUnavailableError, ResourceExhaustedError, DeadlineExceededError,
        ServerUnavailableError, and the other errors of ``polyhead.errors``.
        """
        call = self._prepare(locals())  # the arguments alone, because nothing is assigned before
        return next(self._round_robin).transport.send(call, self._timeout_s(timeout))

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

        The requests are sent over a stream, whatever the client's transport is. This costs less
        than a call of attend for each, and the server runs small requests together::

            for result in client.attend_many(queries, model="bert", need_weights=True):
                ...

        ``requests``: queries, or dicts of attend's arguments. They are read while results are
        taken: at most ``max_in_flight`` requests or results are in memory at once. A result is
        yielded after the next request has been read, so an input that waits delays it, unless
        ``max_in_flight`` is 1. (AsyncClient does not delay results.)
        ``return_exceptions``: True yields the error of a request in its place. False raises it,
        which ends the iteration. The end of the iteration, and closing the generator, cancels the
        requests under way.
        ``shared``: arguments of attend for requests without their own; `timeout` is that of each
        request, from when it is sent.
        """
        check_requests(requests)
        check_shared(shared)

        def submit(item: Item) -> BlockingRequest:
            call, timeout = prepare_item(item, shared)
            return next(self._round_robin).stream.submit(call, self._timeout_s(timeout))

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
    ) -> RowStream:
        """Run one attention block, and return the result in blocks of query rows, in order.

        All attention weights of long sequences take bounded memory on both sides: the server
        computes a block when there is room for it, and the client holds one block at a time::

            shape = (batch_size, num_heads, seq_len, seq_len)
            weights = np.lib.format.open_memmap("weights.npy", "w+", np.float16, shape)
            float16 = Weights(dtype="float16")
            with client.attend_rows(
                query, model="bert", need_weights=float16, need_output=False, timeout=3600
            ) as blocks:
                for rows in blocks:
                    weights[:, :, rows.queries] = rows.attn_weights

        Leaving the ``with``, or closing the stream, ends the call on the server as well.

        ``need_weights``: True by default. The `queries` of a Weights select the rows of the whole
        result, outputs included.
        ``rows_per_block``: query rows in a block; None means as many as fit, by the server's count.
        ``timeout``: seconds for all blocks together; None means the client's timeout.
        Other arguments, and errors, are those of attend. The paths in an error's `fields` begin
        with ``call.``. The iteration raises the errors that the server detects later.
        """
        call = self._prepare_rows(locals())  # the arguments alone
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        translate_errors = partial(connection.unary.translate_errors, timeout_s)
        with translate_errors():
            blocks = connection.attend_rows(
                call.message(), timeout=timeout_s, metadata=connection.unary.metadata
            )
        return RowStream(blocks, call.expected, translate_errors)

    def forward(
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
        """Run a whole model on texts; return hidden states and attention weights of any layer.

        ::

            result = client.forward(
                "Tom is going to fish at the river bank.",
                model="minilm",
                need_weights={3: polyhead.Weights(queries="bank", top_k=5), 5: True},
            )
            result.top("bank", layer=3)

        No layer above the highest requested one runs. If only attention weights of the highest
        layer are requested, only they are computed of this layer.

        The input is one of the following. Texts need a model with a tokenizer.
        ``text``: a text, or several for a batch. A text longer than the model's ``max_length`` is
        refused; ``truncate=True`` cuts it to the model's ``trained_length``. ``text_pair``: the
        second text of each text, for models that compare two: both become one sequence, as the
        model's tokenizer joins them, and are cut together.
        ``token_ids``: (batch_size, seq_len) integers, special tokens included. ``lengths``:
        (batch_size,) integers, the number of valid tokens of each sequence; the rest does not run.
        ``token_type_ids``: (batch_size, seq_len) integers, the type of each token, which says to
        which of two texts it belongs; None means type 0 for all.
        ``pixel_values``: (batch_size, channels, height, width), and ``input_features``:
        (batch_size, bins, frames), from the model's own preprocessing.
        ``hidden_states``: (batch_size, seq_len, hidden_size), with ``lengths``. They enter
        ``first_layer``, layer 0 by default, so that a run can continue from changed hidden states.

        An encoder-decoder takes the encoder's input, or ``memory``, the encoder's output,
        (batch_size, memory_len, width), with ``memory_lengths``; and ``decoder_token_ids``,
        (batch_size, decoder_len), with ``decoder_lengths``. Without ``decoder_token_ids`` only the
        encoder runs.

        ``model``, ``version``: the model; version None means the newest.
        ``need_weights``: True for all attention weights of all layers; Weights for a selection of
        each layer; or a mapping from layers to True or Weights. LayerKey is how layers are named.
        ``Weights(queries="bank")`` selects the row of the word's last token, for each occurrence
        of the word. Each text of a batch must have the word equally often.
        ``head_vectors``: query, key, value and context vectors of heads: True, Vectors, or a
        mapping from layers, as for need_weights.
        ``need_hidden_states``: True for all layers, or a selection of layers. Entry k is the input
        of layer k; entry num_layers is the output of the last layer.
        ``need_output``: False if the output is not needed; the result has no `output`.
        ``last_layer``: the last layer of the last stack that runs; `output` is its output.
        ``output_dtype``: the dtype of output, hidden states, weights and vectors; None means
        float32.
        ``request_id``, ``timeout``: as for attend.

        Raises what attend raises.
        """
        call = self._prepare_forward(locals())  # the arguments alone
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        request = call.request.SerializeToString()
        with errors_name_arguments(call.expected):
            response = connection.unary.call(connection.forward, request, timeout_s)
        return parse_forward_response(call.expected, response)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """List the server's models, by name and then version. Notebooks show a table."""
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        method = connection.stub.ListModels
        response = connection.unary.call(method, pb.ListModelsRequest(), timeout_s)
        return ModelList(map(shared.parse_model, response.models))

    def reload_models(self, *, timeout: float | None = None) -> list[ModelChange]:
        """Make the server load the changed models of its repository; return every change.

        Raises ModelUnavailableError if the server does not allow reloads (--model-control), or
        cannot read its repository.
        """
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        method = connection.stub.ReloadModels
        response = connection.unary.call(method, pb.ReloadModelsRequest(), timeout_s)
        return [shared.parse_change(change) for change in response.changes]

    def model(
        self, name: str, version: int | None = None, *, timeout: float | None = None
    ) -> ModelInfo:
        """Describe one model; version None means the newest. Raises ModelNotFoundError."""
        request = shared.build_get_model_request(name, version)
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        response = connection.unary.call(connection.stub.GetModel, request, timeout_s)
        return shared.parse_model(response.model)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server: its version, what it runs on, and its limits."""
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        method = connection.stub.GetServerInfo
        response = connection.unary.call(method, pb.GetServerInfoRequest(), timeout_s)
        return shared.parse_server_info(response)

    def is_ready(self, *, timeout: float | None = None) -> bool:
        """Return whether the server answers and reports SERVING (grpc.health.v1)."""
        connection, timeout_s = next(self._round_robin), self._timeout_s(timeout)
        try:
            status = connection.unary.call(connection.check_health, b"", timeout_s)
        except (ServerUnavailableError, DeadlineExceededError):
            return False
        return status == methods.SERVING

    def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Check the server's health repeatedly, until it is ready.

        Raises DeadlineExceededError if it is not ready within ``timeout`` seconds.
        """
        for left_s in self._seconds_left(timeout):
            if self.is_ready(timeout=left_s):
                return
            time.sleep(methods.POLL_INTERVAL_S)

    def close(self) -> None:
        """Close the connection; calls under way end with RequestCancelledError."""
        for connection in self._connections:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
