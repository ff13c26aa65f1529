"""Find the arrays in the bytes of a ForwardResponse, so that they are read without a copy.

Reading 76 MB of weights takes 0.2 ms this way, and 53 ms with protobuf alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from polyhead._calls.response_format import MIN_VIEW_BYTES, unreadable_error
from polyhead.v1 import forward_pb2 as pb
from polyhead.v1.tensor_pb2 import HeadVectors, Tensor
from polyhead.wire.protobuf import (
    ABSENT,
    Span,
    UnsupportedWireFormat,
    extract_payloads,
    iter_fields,
    reserialize,
    tag,
    varint,
)
from polyhead.wire.tensors import TensorLayout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.wire.protobuf import Payloads

_ELEMENTS = tag(Tensor.DATA_FIELD_NUMBER)
_OUTPUT = tag(pb.ForwardResponse.OUTPUT_FIELD_NUMBER)
_HIDDEN_STATES = tag(pb.ForwardResponse.HIDDEN_STATES_FIELD_NUMBER)
_ATTN_WEIGHTS = tag(pb.ForwardResponse.ATTN_WEIGHTS_FIELD_NUMBER)
_HEAD_VECTORS = tag(pb.ForwardResponse.HEAD_VECTORS_FIELD_NUMBER)
_ATTENTION = pb.LayerAttention
_KINDS = tuple(field.name for field in HeadVectors.DESCRIPTOR.fields)
_PAYLOADS: dict[int, Payloads] = {
    _OUTPUT: {_ELEMENTS: 0},
    _HIDDEN_STATES: {tag(pb.LayerHiddenStates.HIDDEN_STATES_FIELD_NUMBER): {_ELEMENTS: 0}},
    _ATTN_WEIGHTS: {
        tag(_ATTENTION.ATTN_WEIGHTS_FIELD_NUMBER): {_ELEMENTS: 0},
        tag(_ATTENTION.TOP_KEYS_FIELD_NUMBER): {_ELEMENTS: 1},
        tag(_ATTENTION.QUERIES_FIELD_NUMBER): {_ELEMENTS: 2},
    },
    _HEAD_VECTORS: {
        tag(pb.LayerVectors.HEAD_VECTORS_FIELD_NUMBER): {
            tag(HeadVectors.DESCRIPTOR.fields_by_name[kind].number): {_ELEMENTS: index}
            for index, kind in enumerate(_KINDS)
        },
    },
}
"""For each field with arrays, by its tag: the payloads, which are the arrays' elements."""


class SentTensor(NamedTuple):
    """A tensor of a response, whose elements have not been read yet."""

    head: Tensor
    """The tensor without its elements."""
    data: bytes
    """The whole response."""
    span: Span
    """The elements' span in it."""

    def read(self) -> NDArray[Any]:
        """Return the array as a view, or as a copy if it is small. Raises TensorError."""
        layout, (start, end) = TensorLayout.of(self.head), self.span
        layout.check_size(end - start)
        if layout.nbytes < MIN_VIEW_BYTES:
            return layout.read(self.data[start:end])
        return layout.read(self.data, start)


class SentAttention(NamedTuple):
    """The attention weights of one layer in a response."""

    layer: pb.LayerRef
    attn_weights: SentTensor
    top_keys: SentTensor
    queries: SentTensor


class SentVectors(NamedTuple):
    """The vectors of heads of one layer in a response."""

    layer: pb.LayerRef
    arrays: dict[str, SentTensor]
    """Tensors by kind."""


class ForwardParts(NamedTuple):
    """A ForwardResponse, split into the message and its arrays."""

    message: pb.ForwardResponse
    """The message without the elements of its arrays."""
    output: SentTensor
    hidden_states: list[tuple[pb.LayerRef, SentTensor]]
    attn_weights: list[SentAttention]
    head_vectors: list[SentVectors]


def split_response(data: bytes) -> ForwardParts:
    """Find the arrays in a response. Raises ServerError if it is not a ForwardResponse."""
    try:
        try:
            return _split(data)
        except UnsupportedWireFormat:
            return _split(reserialize(pb.ForwardResponse, data))
    except (DecodeError, UnsupportedWireFormat) as error:
        raise unreadable_error() from error


def _split(data: bytes) -> ForwardParts:
    parts: list[bytes] = []
    spans: dict[int, list[list[Span]]] = {field_tag: [] for field_tag in _PAYLOADS}
    field_start = 0
    for field_tag, start, end in iter_fields(data, 0, len(data)):
        if (payloads := _PAYLOADS.get(field_tag)) is None:
            parts.append(data[field_start:end])
        else:
            extracted = extract_payloads(data, start, end, payloads, len(_KINDS))
            parts += (varint(field_tag), varint(len(extracted.skeleton)), extracted.skeleton)
            spans[field_tag].append(extracted.spans)
        field_start = end
    if len(spans[_OUTPUT]) > 1:  # protobuf merges them
        raise UnsupportedWireFormat
    message = pb.ForwardResponse.FromString(b"".join(parts))
    output = spans[_OUTPUT][0][0] if spans[_OUTPUT] else ABSENT
    return ForwardParts(
        message,
        SentTensor(message.output, data, output),
        [
            (states.layer, SentTensor(states.hidden_states, data, span))
            for states, (span, *_) in zip(message.hidden_states, spans[_HIDDEN_STATES], strict=True)
        ],
        [
            SentAttention(
                attention.layer,
                SentTensor(attention.attn_weights, data, weights),
                SentTensor(attention.top_keys, data, top_keys),
                SentTensor(attention.queries, data, queries),
            )
            for attention, (weights, top_keys, queries, *_) in zip(
                message.attn_weights, spans[_ATTN_WEIGHTS], strict=True
            )
        ],
        [
            SentVectors(
                vectors.layer,
                {
                    kind: SentTensor(getattr(vectors.head_vectors, kind), data, span)
                    for kind, span in zip(_KINDS, kind_spans, strict=True)
                },
            )
            for vectors, kind_spans in zip(message.head_vectors, spans[_HEAD_VECTORS], strict=True)
        ],
    )
