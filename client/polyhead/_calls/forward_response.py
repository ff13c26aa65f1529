"""A ForwardResponse -> a ForwardResult."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from polyhead._arguments.layers import layer_key
from polyhead._calls.expected_response import bfloat16_among
from polyhead._calls.forward_format import split_response
from polyhead._calls.response import execution_of
from polyhead.errors import ServerError
from polyhead.results import ForwardResult, HeadVectors
from polyhead.v1.tensor_pb2 import DATA_TYPE_BFLOAT16
from polyhead.wire.tensors import TensorError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from polyhead._calls.forward_format import (
        ForwardParts,
        SentAttention,
        SentTensor,
        SentVectors,
    )
    from polyhead._calls.forward_request import ExpectedForward
    from polyhead._calls.forward_selections import ExpectedVectors, ExpectedWeights
    from polyhead.results import LayerKey
    from polyhead.v1 import forward_pb2 as pb

_Sent = TypeVar("_Sent", "SentAttention", "SentVectors")
_Expected = TypeVar("_Expected", "ExpectedWeights", "ExpectedVectors")


def parse_forward_response(expected: ExpectedForward, data: bytes) -> ForwardResult:
    """Read a response. Raises ServerError if its contents are not the expected ones."""
    parts = split_response(data)
    response, output = parts.message, None
    if expected.has_output:
        output = _read(expected, "output", parts.output, num_axes=3)
    attn_weights: dict[LayerKey, NDArray[Any]] = {}
    top_keys: dict[LayerKey, NDArray[np.int32]] = {}
    queries: dict[LayerKey, NDArray[np.int32]] = {}
    attention_by_layer = _by_layer("attn_weights", parts.attn_weights, expected.weights)
    for key, (message, request) in attention_by_layer.items():
        name, dtype = f"attn_weights of layer {key!r}", request.selection.dtype
        weights = _read(expected, name, message.attn_weights, num_axes=4, dtype=dtype)
        attn_weights[key] = weights
        if request.selection.top_k is not None:
            top_keys[key] = _read_indices(
                expected, f"top_keys of layer {key!r}", message.top_keys, weights.shape
            )
        queries[key] = _queries(expected, key, request, message, weights)
    return ForwardResult(
        output=output,
        hidden_states=_hidden_states(expected, parts),
        attn_weights=attn_weights,
        top_keys=top_keys,
        queries=queries,
        selections={key: request.selection for key, (_, request) in attention_by_layer.items()},
        head_vectors={
            key: _vectors(expected, key, message, request)
            for key, (message, request) in _by_layer(
                "head_vectors", parts.head_vectors, expected.vectors
            ).items()
        },
        texts=expected.texts,
        text_pairs=expected.text_pairs,
        **_tokens(expected, response),
        lengths=_lengths(expected, response),
        decoder_lengths=_frozen(expected.decoder_lengths),
        memory_lengths=_frozen(expected.memory_lengths),
        layers_run={
            run.stack: range(run.first_layer, run.first_layer + run.num_layers)
            for run in response.layers_run
        },
        request_id=response.request_id,
        execution=execution_of(response.execution),
    )


def _hidden_states(expected: ExpectedForward, parts: ForwardParts) -> dict[LayerKey, NDArray[Any]]:
    keys = expected.hidden_states
    if keys is None:
        keys = tuple(layer_key(layer) for layer, _ in parts.hidden_states)
    _check_count("hidden_states", len(parts.hidden_states), len(keys))
    _check_count("hidden_states of different layers", len(set(keys)), len(keys))
    return {
        key: _read(expected, f"hidden states of layer {key!r}", states, num_axes=3)
        for key, (_, states) in zip(keys, parts.hidden_states, strict=True)
    }


def _by_layer(
    name: str, messages: list[_Sent], expected: tuple[_Expected, ...]
) -> dict[LayerKey, tuple[_Sent, _Expected]]:
    """Pair each layer's message with its part of the request, by the layer's name.

    The names are those of the request, or those of the response if all layers were requested.
    """
    if len(expected) == 1 and expected[0].layer is None:
        request = expected[0]
        by_layer = {layer_key(message.layer): (message, request) for message in messages}
        _check_count(f"{name} of different layers", len(by_layer), len(messages))
        return by_layer
    _check_count(name, len(messages), len(expected))
    pairs = zip(messages, expected, strict=True)
    return {each.layer: (message, each) for message, each in pairs if each.layer is not None}


def _vectors(
    expected: ExpectedForward, key: LayerKey, message: SentVectors, request: ExpectedVectors
) -> HeadVectors:
    selection = request.selection
    arrays: dict[str, NDArray[Any] | None] = dict.fromkeys(message.arrays)
    for kind in selection.kinds:
        name = f"head_vectors of layer {key!r}, {kind}"
        tensor, dtype = message.arrays[kind], selection.dtype
        array = arrays[kind] = _read(expected, name, tensor, num_axes=4, dtype=dtype)
        positions: Any = selection.keys if kind in ("key", "value") else selection.queries
        heads: Any = selection.heads
        for axis, indices in ((1, heads), (2, positions)):
            if indices:
                _check_count(f"entries of axis {axis} of {name}", array.shape[axis], len(indices))
    return HeadVectors(selection=selection, **arrays)


def _queries(
    expected: ExpectedForward,
    key: LayerKey,
    request: ExpectedWeights,
    message: SentAttention,
    weights: NDArray[Any],
) -> NDArray[np.int32]:
    """Return the query of each row of weights, (batch_size, rows)."""
    shape = (expected.batch_size, weights.shape[2])
    if request.has_words:
        return _read_indices(expected, f"queries of layer {key!r}", message.queries, shape)
    rows = np.array(request.selection.queries or range(shape[1]), np.int32)
    _check_count(f"queries of layer {key!r}", shape[1], len(rows))
    return np.broadcast_to(rows, shape)


def _tokens(expected: ExpectedForward, response: pb.ForwardResponse) -> dict[str, Any]:
    """Return the tokens of texts, and their ids or else the ids of the request."""
    _check_count("tokens", len(response.tokens), len(expected.texts))
    if expected.text_pairs:
        num_pairs = sum(any(token.text_index for token in text.tokens) for text in response.tokens)
        _check_count("tokens of second texts", num_pairs, len(expected.text_pairs))
    token_ids, token_type_ids = expected.token_ids, expected.token_type_ids
    if expected.texts:
        seq_len = max(len(text.tokens) for text in response.tokens)
        token_ids, token_type_ids = np.zeros((2, len(response.tokens), seq_len), np.int32)
        for index, text in enumerate(response.tokens):
            token_ids[index, : len(text.tokens)] = [token.id for token in text.tokens]
            token_type_ids[index, : len(text.tokens)] = [token.type_id for token in text.tokens]
    return {
        "tokens": [[token.text for token in text.tokens] for text in response.tokens],
        "token_spans": [
            [(token.start, token.end) for token in text.tokens] for text in response.tokens
        ],
        "token_texts": [[token.text_index for token in text.tokens] for text in response.tokens],
        "token_ids": _frozen(token_ids),
        "token_type_ids": _frozen(token_type_ids),
    }


def _lengths(expected: ExpectedForward, response: pb.ForwardResponse) -> NDArray[np.int64]:
    _check_count("lengths", len(response.lengths), expected.batch_size)
    lengths = np.array(response.lengths, np.int64)
    lengths.flags.writeable = False
    return lengths


def _read(
    expected: ExpectedForward,
    name: str,
    tensor: SentTensor,
    *,
    num_axes: int,
    dtype: DTypeLike | None = None,
) -> NDArray[Any]:
    """Read a tensor of the whole batch. Raises ServerError."""
    try:
        array = tensor.read()
    except TensorError as error:
        raise ServerError(f"the server's reply has no array for {name}: {error}") from error
    if array.ndim != num_axes or len(array) != expected.batch_size:
        raise ServerError(
            f"the server's reply has {name} of shape {array.shape}: expected {num_axes} axes and a "
            f"batch size of {expected.batch_size}"
        )
    bfloat16 = bfloat16_among(dtype, expected.output_dtype)
    if bfloat16 is not None and tensor.head.dtype == DATA_TYPE_BFLOAT16:
        array = array.astype(bfloat16)
        array.flags.writeable = False
    return array


def _read_indices(
    expected: ExpectedForward, name: str, tensor: SentTensor, shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read indices, a tensor of this shape."""
    array = _read(expected, name, tensor, num_axes=len(shape))
    if array.shape != shape or array.dtype != np.int32:
        got = f"{array.dtype} of shape {array.shape}"
        raise ServerError(f"the server's reply has {name}, {got}: expected int32 of shape {shape}")
    return array


def _frozen(array: NDArray[Any] | None) -> NDArray[Any] | None:
    if array is not None:
        array.flags.writeable = False
    return array


def _check_count(name: str, count: int, expected: int) -> None:
    if count != expected:
        raise ServerError(
            f"the server's reply has {count} {name}: expected {expected}, from a polyhead server "
            "no older than this client"
        )
