"""Arguments of a call -> the bytes of an AttendRequest, and what its reply is read with.

Callers repeat themselves: the same model with arrays of the same shapes, over and over. What does
not depend on the arrays' numbers is therefore checked and written once for each kind of call and
remembered, as a Plan; a call of a known kind takes a sixth of the time that it took at first.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from polyhead._arguments import checks as arguments
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
from polyhead._arguments.weights import checked_need_output, checked_selection
from polyhead._calls.expected_response import ExpectedResponse, expected_response
from polyhead.results import Weights
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import header
from polyhead.wire.tensors import encode_elements, itemsize, parse_dtype, tensor_head

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from polyhead.v1.attention_pb2 import DataType

__all__ = ["PreparedCall", "prepare_call", "prepare_rows_call"]

_REQUEST_ID = pb.AttendRequest.REQUEST_ID_FIELD_NUMBER
_CALL = pb.AttendRowsRequest.CALL_FIELD_NUMBER
_NUMBERS = {
    name: pb.AttendRequest.DESCRIPTOR.fields_by_name[name].number
    for name in ("query", "key", "value", "attn_mask", "positions", "key_positions")
}
"""The arguments that are sent as tensors, and their fields."""
_POSITIONS = ("positions", "key_positions")
_MAX_TEMPLATES = 1024


class PreparedCall(NamedTuple):
    """A call that only needs to be sent."""

    parts: list[bytes | NDArray[Any]]
    """What joins to the message; arrays may be the caller's own."""
    size: int
    """Of the message, in bytes."""
    expected: ExpectedResponse

    def message(self) -> bytes:
        """Join the parts: the one copy that an array's elements go through here."""
        return b"".join(self.parts)  # type: ignore[arg-type] # arrays are buffers, untyped as such


class RequestTemplate(NamedTuple):
    """All of a kind of call but its arrays' numbers, its lengths and its id."""

    head: bytes
    """Every field that is no tensor."""
    tensors: tuple[tuple[str, DataType.ValueType, bytes, int], ...]
    """Name, element type, what stands before the elements, and the size of that and these."""
    size: int
    """Of the message without lengths and id."""
    batch_size: int
    expected: ExpectedResponse


def prepare_call(
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
) -> PreparedCall:
    """Make the message for a call, and note what its reply is read with.

    Client.attend documents the arguments. Raises InvalidArgumentError for whatever cannot be right
    for any model.
    """
    arrays = {"query": as_array("query", query)}
    if not (key is value is attn_mask is positions is key_positions is None):  # as mostly
        for name, given in (
            ("key", key),
            ("value", value),
            ("attn_mask", attn_mask),
            ("positions", positions),
            ("key_positions", key_positions),
        ):
            if given is not None:
                arrays[name] = as_array(name, given)
    kind: tuple[Any, ...] = (
        tuple([(name, array.dtype, array.shape) for name, array in arrays.items()]),
        model,
        version,
        need_weights,
        _types_in(need_weights),
        need_output,
        output_dtype,
        key is None or key is query,
    )
    try:
        template = _cached_template(
            *kind
        )  # by place: names would double the time that finding takes
    except TypeError:  # something in it cannot be hashed, such as a list of heads
        template = _make_template(*kind)
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


def prepare_rows_call(call: PreparedCall, rows_per_block: int | None) -> PreparedCall:
    """Ask for a call's answer in blocks. Raises InvalidArgumentError."""
    count = arguments.checked_count(
        "rows_per_block", rows_per_block, "as many as the server finds fit"
    )
    head = pb.AttendRowsRequest(rows_per_block=count).SerializeToString()
    head += header(_CALL, call.size)
    return PreparedCall([head, *call.parts], len(head) + call.size, call.expected)


def _types_in(need_weights: object) -> object:
    """Give what == does not see in a wish, such as that True is not 1.

    Of wishes that may change once they have been checked, give what lru_cache cannot remember.
    """
    if not isinstance(need_weights, Weights):
        return ()
    heads, queries = need_weights.heads, need_weights.queries
    if type(heads) not in (int, tuple) or type(queries) not in (int, tuple):
        return []
    return (
        tuple(map(type, heads)) if isinstance(heads, tuple) else int,
        tuple(map(type, queries)) if isinstance(queries, tuple) else int,
        type(need_weights.top_k),
        type(need_weights.average_heads),
        type(need_weights.dtype),
    )


def _make_template(  # noqa: PLR0917 - lru_cache takes them so
    named_specs: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
    model: str,
    version: int | None,
    need_weights: bool | Weights,  # noqa: FBT001 - as attend takes it
    _types: object,  # tells apart what is remembered
    need_output: bool,  # noqa: FBT001
    output_dtype: DTypeLike | None,
    is_self_attention: bool,  # noqa: FBT001
) -> RequestTemplate:
    """Check and write what all calls of a kind have in common. Raises InvalidArgumentError."""
    specs = {name: ArraySpec(dtype, shape) for name, dtype, shape in named_specs}
    request = pb.AttendRequest(
        model=arguments.checked_text("model", model),
        model_version=arguments.checked_version(version, "model_version"),
    )
    _check_specs(specs)
    query = specs["query"]
    selection = checked_selection(need_weights, query.shape[-2])
    if selection is not None:
        request.attn_weights.CopyFrom(selection)  # present even if it selects everything
    request.omit_output = not checked_need_output(need_output, has_weights=selection is not None)
    if output_dtype is not None:
        request.output_dtype = arguments.checked_float_dtype("output_dtype", output_dtype)
    head = request.SerializeToString()
    tensors = tuple((name, *_write_tensor_head(name, kind)) for name, kind in specs.items())
    expected = expected_response(
        request,
        need_weights,
        query_shape=query.shape,
        kv_seq_len=specs.get("key", query).shape[-2],
        is_self_attention=is_self_attention,
        output_dtypes=(output_dtype, query.dtype),
    )
    size = len(head) + sum(size for *_, size in tensors)
    return RequestTemplate(head, tensors, size, query.shape[0], expected)


_cached_template = lru_cache(_MAX_TEMPLATES, typed=True)(_make_template)


def _check_specs(specs: dict[str, ArraySpec]) -> None:
    """Refuse arrays that are not right in themselves, or do not agree with each other."""
    query, key = specs["query"], specs.get("key")
    check_embeddings("query", query)
    agreeing = {"num_axes": len(query.shape), "batch_size": query.shape[0]}
    if key is not None:
        check_embeddings("key", key, **agreeing)
    elif "value" in specs:
        message = "is given without key: expected key as well"
        raise arguments.invalid("value", message, "value", "REQUIRED")
    batch_size, q_seq_len, kv_seq_len = query.shape[0], query.shape[-2], (key or query).shape[-2]
    if "value" in specs:
        check_embeddings("value", specs["value"], **agreeing, seq_len=kv_seq_len)
    if "attn_mask" in specs:
        check_attn_mask(specs["attn_mask"], batch_size, q_seq_len, kv_seq_len)
    if "positions" in specs:
        check_positions("positions", specs["positions"], batch_size, q_seq_len)
    if "key_positions" in specs:
        check_positions("key_positions", specs["key_positions"], batch_size, kv_seq_len)
    check_size(specs.values())


def _write_tensor_head(name: str, kind: ArraySpec) -> tuple[DataType.ValueType, bytes, int]:
    """Give an array's element type, what stands before its elements, and the size of both."""
    dtype = pb.DATA_TYPE_INT32 if name in _POSITIONS else parse_dtype(kind.dtype)
    start = tensor_head(_NUMBERS[name], dtype, kind.shape)
    return dtype, start, len(start) + math.prod(kind.shape) * itemsize(dtype)
