"""Client: calls that block."""

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

    Connecting happens with the first call. Calls that find the server gone, or that it
    cancels because it stops, are tried up to four times within a second or so; nothing else is.

    ``target``: ``host:port``, ``[ipv6]:port``, ``unix:path``, or any target with gRPC's own
    schemes; ``https://host:port`` is the same with ``tls=True``.
    ``tls``: None is plaintext; True trusts the usual authorities;
    ``TLSConfig(root_certificates="ca.pem")`` trusts your own.
    ``timeout``: seconds that a call may take if it names no other, 60 by default.
    ``metadata``: text sent with every call.
    ``token``: what `polyhead token new` printed, sent with every call; None: that of the
    environment variable POLYHEAD_TOKEN, if it is set. It is refused without TLS, unless the server
    is on this machine or ``allow_plaintext_token`` is True.
    ``transport``: how `attend` travels. ``"unary"``: each as a call of its own. ``"stream"``: those
    under way at the same time share one stream, which many small requests gain from; results and
    errors are the same. Other calls are unary either way.
    ``connections``: how many are opened and used in turn; a server with several workers
    (``polyhead serve --workers``) gives each to one of them.

    A forked process makes its own Client; gRPC wants GRPC_ENABLE_FORK_SUPPORT=1 in the environment
    of programs that fork while they use it.

    Whatever goes wrong is raised as a PolyheadError; see ``polyhead.errors``.
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
        key and value likewise with num_kv_heads, and gives its output in the same form.
        ``model``, ``version``: which block; version None is the newest.
        ``layer``: which block of a whole model: a layer's number, or a pair as LayerKey says.
        ``key``: (batch_size, kv_seq_len, kdim), for cross-attention; None: `query`.
        ``value``: (batch_size, kv_seq_len, vdim), with a `key` of its own; None: `key`.
        ``attn_mask``: broadcastable to (batch_size, num_heads, q_seq_len, kv_seq_len). Of bool,
        True where a query MAY attend; of a float type, added to the scaled scores. Two axes are
        (q_seq_len, kv_seq_len), the same for all sequences, and never (batch_size, kv_seq_len).
        ``kv_lengths``: (batch_size,) integers, the number of valid keys of each sequence.
        ``key_padding_mask``: (batch_size, kv_seq_len), True or 1 where a key is valid, False or 0
        where it is padding, as transformers' attention_mask. The argument of this name of
        torch.nn.MultiheadAttention means the opposite.
        ``positions``: (q_seq_len,) or (batch_size, q_seq_len) integers, for the model's rotary
        embedding; None: 0, 1, 2 and so on. Masks and biases go by place in the sequence instead.
        ``key_positions``: the same for the keys; None: `positions` if there is no `key`, and
        0, 1, 2 and so on if there is.
        ``need_weights``: True for all attention weights, Weights for some.
        ``head_vectors``: True for the query, key and value vectors of all heads, Vectors for some
        of them, or for contexts.
        ``need_output``: False leaves `output` out, where weights or vectors are all that is wanted.
        ``output_dtype``: such as ``"float16"``; None: that of `query`. NumPy has no bfloat16, so
        ``"bfloat16"`` comes back as float32, unless an ml_dtypes dtype was given.
        ``request_id``: comes back in the result and appears in the server's logs.
        ``timeout``: seconds; None: the client's.

        Raises InvalidArgumentError, before anything is sent where the fault can be seen here;
        ModelNotFoundError, ModelUnavailableError, ResourceExhaustedError, DeadlineExceededError,
        ServerUnavailableError and the rest of the tree.
        """
        call = self._prepare(locals())  # all of them arguments, as nothing is assigned before
        return next(self._turns).transport.send(call, self._timeout_s(timeout))

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
        check_requests(requests)
        check_shared(shared)

        def submit(item: Item) -> BlockingRequest:
            call, timeout = prepare_item(item, shared)
            return next(self._turns).stream.submit(call, self._timeout_s(timeout))

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
        call = self._prepare_rows(locals())  # all of them arguments
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        translated = partial(connection.unary.translated, timeout_s)
        with translated():
            blocks = connection.attend_rows(
                call.message(), timeout=timeout_s, metadata=connection.unary.metadata
            )
        return RowStream(blocks, call.expected, translated)

    def forward(
        self,
        text: str | Sequence[str] | None = None,
        *,
        model: str,
        version: int | None = None,
        token_ids: ArrayLike | None = None,
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
        """Run a whole model: text in, any layer's hidden states and attention weights out.

        ::

            result = client.forward(
                "Tom is going to fish at the river bank.",
                model="minilm",
                need_weights={3: polyhead.Weights(queries="bank", top_k=5), 5: True},
            )
            result.top("bank", layer=3)

        Only what is needed is run: no layer above the highest one wanted, and of that one the
        attention weights alone if nothing else of it is wanted.

        The input is one of these; texts need a model with a tokenizer:
        ``text``: a text, or several for a batch. Those longer than ``max_length`` of the model are
        refused; ``truncate=True`` cuts them to its ``trained_length``.
        ``token_ids``: (batch_size, seq_len) integers, special tokens included. ``lengths``:
        (batch_size,) integers, the number of valid tokens of each sequence; what follows does not
        run.
        ``pixel_values``: (batch_size, channels, height, width), and ``input_features``:
        (batch_size, bins, frames), as the model's own preprocessing makes them.
        ``hidden_states``: (batch_size, seq_len, hidden_size), with ``lengths``, which enter
        ``first_layer``, layer 0 by default: to go on from hidden states that have been changed.

        An encoder-decoder takes the encoder's input, or ``memory``, the encoder's output,
        (batch_size, memory_len, width), with ``memory_lengths``; and ``decoder_token_ids``,
        (batch_size, decoder_len), with ``decoder_lengths``. Without these the encoder alone runs.

        ``model``, ``version``: which model; version None is the newest.
        ``need_weights``: attention weights: True for all layers; Weights for the same selection of
        all layers; or a mapping from layers to True or Weights. LayerKey says how layers are named.
        ``Weights(queries="bank")`` is the row of a word's last token, for each time that it occurs;
        the texts of a batch must have equally many.
        ``head_vectors``: query, key, value and context vectors of heads: True, Vectors, or a
        mapping from layers, as for need_weights.
        ``need_hidden_states``: True for all layers, or layers: k is what enters layer k, and the
        number of layers what leaves the last one.
        ``need_output``: False leaves `output` out.
        ``last_layer``: the last layer of the last stack that runs; `output` is what leaves it.
        ``output_dtype``: of the output, hidden states, weights, and vectors; None: float32.
        ``request_id``, ``timeout``: as for attend.

        Raises what attend raises.
        """
        call = self._prepare_forward(locals())  # all of them arguments
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        request = call.request.SerializeToString()
        with errors_name_arguments(call.expected):
            response = connection.unary.call(connection.forward, request, timeout_s)
        return parse_forward_response(call.expected, response)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """List the server's models, by name and then version. Notebooks show a table."""
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        method = connection.stub.ListModels
        response = connection.unary.call(method, pb.ListModelsRequest(), timeout_s)
        return ModelList(map(shared.parse_model, response.models))

    def reload_models(self, *, timeout: float | None = None) -> list[ModelChange]:
        """Make the server load what has changed in its repository, and return what that did.

        Raises ModelUnavailableError if the server does not allow it (--model-control), or cannot
        read its repository.
        """
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        method = connection.stub.ReloadModels
        response = connection.unary.call(method, pb.ReloadModelsRequest(), timeout_s)
        return [shared.parse_change(change) for change in response.changes]

    def model(
        self, name: str, version: int | None = None, *, timeout: float | None = None
    ) -> ModelInfo:
        """Describe one model; version None is the newest. Raises ModelNotFoundError."""
        request = shared.build_get_model_request(name, version)
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        response = connection.unary.call(connection.stub.GetModel, request, timeout_s)
        return shared.parse_model(response.model)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """Describe the server: its version, what it runs on, and its limits."""
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        method = connection.stub.GetServerInfo
        response = connection.unary.call(method, pb.GetServerInfoRequest(), timeout_s)
        return shared.parse_server_info(response)

    def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server is there and says that it serves (grpc.health.v1)."""
        connection, timeout_s = next(self._turns), self._timeout_s(timeout)
        try:
            status = connection.unary.call(connection.check_health, b"", timeout_s)
        except (ServerUnavailableError, DeadlineExceededError):
            return False
        return status == methods.SERVING

    def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the server is ready, however often that takes asking.

        Raises DeadlineExceededError if it is not within ``timeout`` seconds.
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
