"""Arguments of a call -> the bytes of an AttendRequest, and the ExpectedResponse.

Callers repeat calls with the same model and with arrays of the same shapes. Everything that does
not depend on the arrays' elements is therefore checked and serialised once and cached, as a
RequestTemplate: a call with a cached one takes a sixth of the time.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from polyhead import _checks as arguments
from polyhead._arguments.arrays import (
    ArraySpec,
    as_array,
    check_attn_mask,
    check_embeddings,
    check_positions,
    check_size,
    checked_kv_lengths,
    int32_positions,
)
from polyhead._arguments.layers import checked_layer, layer_ref
from polyhead._arguments.padding import read_padding
from polyhead._arguments.vectors import canonical_vectors, vectors_message
from polyhead._arguments.weights import canonical_weights, checked_need_output, make_selection
from polyhead._calls.expected_response import ExpectedResponse, expected_response
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import header
from polyhead.wire.tensors import encode_elements, itemsize, parse_dtype, tensor_head

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from polyhead._arguments.vectors import CanonicalVectors
    from polyhead._arguments.weights import CanonicalWeights
    from polyhead.results import LayerKey, Vectors, Weights
    from polyhead.v1.attention_pb2 import DataType

_REQUEST_ID = pb.AttendRequest.REQUEST_ID_FIELD_NUMBER
_CALL = pb.AttendRowsRequest.CALL_FIELD_NUMBER
_OPTIONAL_TENSORS = ("key", "value", "attn_mask", "positions", "key_positions")
_FIELD_NUMBERS = {
    name: pb.AttendRequest.DESCRIPTOR.fields_by_name[name].number
    for name in ("query", *_OPTIONAL_TENSORS)
}
"""Field numbers of the arguments that are sent as tensors."""
_POSITIONS = ("positions", "key_positions")
_MAX_TEMPLATES = 1024


class PreparedCall(NamedTuple):
    """A call that is ready to be sent."""

    parts: list[bytes | NDArray[Any]]
    """Parts of the message, in order; arrays may be the caller's own."""
    size: int
    """Size of the message in bytes."""
    expected: ExpectedResponse

    def message(self) -> bytes:
        """Join the parts, which copies the arrays' elements for the first and only time here."""
        return b"".join(self.parts)  # type: ignore[arg-type] # arrays are buffers, untyped as such


class RequestTemplate(NamedTuple):
    """The parts that calls have in common: all but array elements, kv_lengths and request_id."""

    head: bytes
    """The serialised fields that are not tensors."""
    tensors: tuple[tuple[str, DataType.ValueType, bytes, int], ...]
    """Each tensor's name, element type, bytes before the elements, and size with the elements."""
    size: int
    """Size of the message without kv_lengths and request_id."""
    batch_size: int
    expected: ExpectedResponse


def prepare_call(
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
) -> PreparedCall:
    """Serialise a call, and record what its response must contain.

    Client.attend documents the arguments. Raises InvalidArgumentError for arguments that no model
    accepts.
    """
    arrays = {"query": as_array("query", query)}
    if not (key is value is attn_mask is positions is key_positions is None):
        optional = (key, value, attn_mask, positions, key_positions)
        for name, argument in zip(_OPTIONAL_TENSORS, optional, strict=True):
            if argument is not None:
                arrays[name] = as_array(name, argument)
    if key_padding_mask is not None:
        kv_lengths = _add_padding(key_padding_mask, kv_lengths, arrays)
    cache_key: tuple[Any, ...] = (
        tuple([(name, array.dtype, array.shape) for name, array in arrays.items()]),
        model,
        version,
        None if layer is None else checked_layer("layer", layer, "layer"),
        canonical_weights(need_weights),
        canonical_vectors(head_vectors) if head_vectors is not False else None,
        need_output,
        output_dtype,
        key is None or key is query,
    )
    try:
        template = _cached_template(*cache_key)  # keyword arguments would take twice as long
    except TypeError:  # an argument of a wrong, unhashable type: the checks say which
        template = _make_template(*cache_key)
    parts: list[bytes | NDArray[Any]] = [template.head]
    size = template.size
    for name, dtype, start, _ in template.tensors:
        array = arrays[name]
        if name in _POSITIONS:
            array = int32_positions(name, array)
        parts += (start, encode_elements(array, dtype))
    if request_id is not None:
        text = arguments.checked_request_id(request_id).encode()
        parts.append(header(_REQUEST_ID, len(text)) + text)
        size += len(parts[-1])
    if kv_lengths is not None:
        lengths = checked_kv_lengths(kv_lengths, template.batch_size, template.expected.kv_seq_len)
        parts.append(pb.AttendRequest(kv_lengths=lengths).SerializeToString())
        size += len(parts[-1])
    return PreparedCall(parts, size, template.expected)


def _add_padding(
    mask: ArrayLike, kv_lengths: ArrayLike | None, arrays: dict[str, NDArray[Any]]
) -> NDArray[Any] | None:
    """Return the mask as lengths; a mask that lengths cannot express becomes attn_mask."""
    padding = read_padding(
        mask,
        arrays.get("key", arrays["query"]),
        arrays.get("attn_mask"),
        has_lengths=kv_lengths is not None,
    )
    if padding.attn_mask is not None:
        arrays["attn_mask"] = padding.attn_mask
    return padding.kv_lengths


def prepare_rows_call(call: PreparedCall, rows_per_block: int | None) -> PreparedCall:
    """Make a call of AttendRows from one of Attend. Raises InvalidArgumentError."""
    count = arguments.checked_count(
        "rows_per_block", rows_per_block, "as many as the server finds fit"
    )
    head = pb.AttendRowsRequest(rows_per_block=count).SerializeToString()
    head += header(_CALL, call.size)
    return PreparedCall([head, *call.parts], len(head) + call.size, call.expected)


def _make_template(  # noqa: PLR0917 - lru_cache finds positional arguments faster
    named_specs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
    model: str,
    version: int | None,
    layer: LayerKey | None,
    need_weights: bool | CanonicalWeights,  # noqa: FBT001 - as attend takes it
    head_vectors: CanonicalVectors | None,
    need_output: bool,  # noqa: FBT001
    output_dtype: DTypeLike | None,
    is_self_attention: bool,  # noqa: FBT001
) -> RequestTemplate:
    """Check and serialise the common parts of calls. Raises InvalidArgumentError."""
    specs = {name: ArraySpec(dtype, shape) for name, dtype, shape in named_specs}
    request = pb.AttendRequest(
        model=arguments.checked_text("model", model),
        model_version=arguments.checked_version(version, "model_version"),
    )
    if layer is not None:
        request.layer.CopyFrom(layer_ref(layer))
    _check_specs(specs)
    query = specs["query"]
    selection = make_selection(need_weights, query.shape[-2])
    if selection is not None:
        request.attn_weights.CopyFrom(selection)  # present even if it selects everything
    kv_seq_len = specs.get("key", query).shape[-2]
    if head_vectors is not None:
        message = vectors_message(head_vectors, q_seq_len=query.shape[-2], kv_seq_len=kv_seq_len)
        request.head_vectors.CopyFrom(message)
    has_others = selection is not None or head_vectors is not None
    request.omit_output = not checked_need_output(need_output, has_others=has_others)
    if output_dtype is not None:
        request.output_dtype = arguments.checked_float_dtype("output_dtype", output_dtype)
    head = request.SerializeToString()
    tensors = tuple((name, *_describe_tensor(name, spec)) for name, spec in specs.items())
    expected = expected_response(
        request,
        need_weights=need_weights,
        head_vectors=head_vectors,
        query_shape=query.shape,
        kv_seq_len=kv_seq_len,
        is_self_attention=is_self_attention,
        output_dtypes=(output_dtype, query.dtype),
    )
    size = len(head) + sum(size for *_, size in tensors)
    return RequestTemplate(head, tensors, size, query.shape[0], expected)


_cached_template = lru_cache(_MAX_TEMPLATES, typed=True)(_make_template)


def _check_specs(specs: dict[str, ArraySpec]) -> None:
    """Refuse arrays of wrong dtypes or shapes, and shapes that do not agree with each other."""
    query, key = specs["query"], specs.get("key")
    check_embeddings("query", query)
    sizes_of_query = {"num_axes": len(query.shape), "batch_size": query.shape[0]}
    if key is not None:
        check_embeddings("key", key, **sizes_of_query)
    elif "value" in specs:
        message = "is given without key: expected key as well"
        raise arguments.invalid("value", message, "value", "REQUIRED")
    batch_size, q_seq_len, kv_seq_len = query.shape[0], query.shape[-2], (key or query).shape[-2]
    if "value" in specs:
        check_embeddings("value", specs["value"], **sizes_of_query, seq_len=kv_seq_len)
    if "attn_mask" in specs:
        check_attn_mask(specs["attn_mask"], batch_size, q_seq_len, kv_seq_len)
    if "positions" in specs:
        check_positions("positions", specs["positions"], batch_size, q_seq_len)
    if "key_positions" in specs:
        check_positions("key_positions", specs["key_positions"], batch_size, kv_seq_len)
    check_size(specs.values())


def _describe_tensor(name: str, spec: ArraySpec) -> tuple[DataType.ValueType, bytes, int]:
    """Return a tensor's element type, the bytes before the elements, and the size with them."""
    dtype = pb.DATA_TYPE_INT32 if name in _POSITIONS else parse_dtype(spec.dtype)
    start = tensor_head(_FIELD_NUMBERS[name], dtype, spec.shape)
    return dtype, start, len(start) + math.prod(spec.shape) * itemsize(dtype)
