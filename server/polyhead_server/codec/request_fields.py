"""An AttendRequest without its arrays' values -> an AttentionCall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import TensorError, TensorLayout
from polyhead_server.call import TENSORS, AttentionCall, LayerName, Stage, WeightsSelection
from polyhead_server.errors import InvalidRequestError
from polyhead_server.head_vectors import KINDS, VectorsSelection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead.v1 import forward_pb2

    _DataTypes = frozenset[pb.DataType.ValueType]

__all__ = [
    "FLOATS",
    "MAX_ENTRIES",
    "check_dtype",
    "entries",
    "read_call",
    "read_layer",
    "read_selection",
    "read_vectors",
    "tensor_error",
]

MAX_ENTRIES = 1 << 20
"""Most entries of a repeated field. A batch has fewer sequences, and copying them takes no time."""
FLOATS: _DataTypes = frozenset(
    (pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE)
)
_MASKS: _DataTypes = FLOATS | {pb.DATA_TYPE_BOOL}
_POSITIONS: _DataTypes = frozenset((pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64))
_NAMES = {FLOATS: "FLOAT, FLOAT16, BFLOAT16 or DOUBLE", _POSITIONS: "INT32 or INT64"}
_NAMES[_MASKS] = f"BOOL, {_NAMES[FLOATS]}"
_DTYPES = dict.fromkeys(TENSORS, FLOATS)
_DTYPES |= {"attn_mask": _MASKS, "positions": _POSITIONS, "key_positions": _POSITIONS}


def tensor_error(field: str, error: TensorError) -> InvalidRequestError:
    """Make the error for a field's tensor."""
    return InvalidRequestError(f"{field}.{error.field}", str(error), error.reason)


def read_call(request: pb.AttendRequest) -> AttentionCall:
    """Read a request. Raises InvalidRequestError if it contradicts itself."""
    layouts = {name: _layout(request, name, dtypes) for name, dtypes in _DTYPES.items()}
    query = layouts.pop("query")
    if query is None:
        raise InvalidRequestError("query", "is required, and not set", "REQUIRED")
    output_dtype = request.output_dtype or query.dtype
    check_dtype("output_dtype", output_dtype, FLOATS)
    return AttentionCall(
        model=request.model,
        model_version=request.model_version,
        query=query,
        kv_lengths=entries("kv_lengths", request.kv_lengths),
        weights=read_selection("attn_weights", request.attn_weights)
        if request.HasField("attn_weights")
        else None,
        output_dtype=output_dtype,
        need_output=not request.omit_output,
        layer=read_layer(request.layer) if request.HasField("layer") else None,
        vectors=read_vectors("head_vectors", request.head_vectors)
        if request.HasField("head_vectors")
        else None,
        **layouts,  # type: ignore[arg-type] # none of them is `payloads`
    )


def read_layer(layer: forward_pb2.LayerRef) -> LayerName:
    """Read the name of a layer."""
    return LayerName(layer.stack, layer.layer, layer.kind or "self")


def _layout(request: pb.AttendRequest, field: str, dtypes: _DataTypes) -> TensorLayout | None:
    """Read the dtype and shape of one of the request's tensors; None if it is not set."""
    if not request.HasField(field):  # type: ignore[arg-type]  # one of its tensor fields
        return None
    tensor: pb.Tensor = getattr(request, field)
    check_dtype(f"{field}.dtype", tensor.dtype, dtypes)
    try:
        return TensorLayout.of(tensor)
    except TensorError as error:
        raise tensor_error(field, error) from error


def read_selection(field: str, selection: pb.AttnWeightsSelection) -> WeightsSelection:
    """Read a selection of weights. Raises InvalidRequestError."""
    try:
        stage = Stage(selection.stage or Stage.WEIGHTS)
    except ValueError:
        expected_names = ", ".join(stage.name for stage in Stage)
        raise InvalidRequestError(
            f"{field}.stage",
            f"expected one of {expected_names}; got {selection.stage}",
            "INVALID_VALUE",
        ) from None
    if selection.dtype:
        check_dtype(f"{field}.dtype", selection.dtype, FLOATS)
    return WeightsSelection(
        heads=entries(f"{field}.heads", selection.heads),
        queries=entries(f"{field}.queries", selection.queries),
        top_k=selection.top_k,
        average_heads=selection.average_heads,
        stage=stage,
        dtype=selection.dtype or None,
    )


def read_vectors(field: str, selection: pb.HeadVectorsSelection) -> VectorsSelection:
    """Read a selection of vectors of heads. Raises InvalidRequestError."""
    numbers = selection.kinds
    for index, number in enumerate(numbers):
        if not 1 <= number <= len(KINDS):
            expected_names = ", ".join(KINDS).upper()
            raise InvalidRequestError(
                f"{field}.kinds[{index}]",
                f"expected one of {expected_names}; got {number}",
                "INVALID_VALUE",
            )
        if number in numbers[:index]:
            raise InvalidRequestError(
                f"{field}.kinds[{index}]",
                f"requests {KINDS[number - 1].upper()} twice",
                "DUPLICATE",
            )
    if selection.dtype:
        check_dtype(f"{field}.dtype", selection.dtype, FLOATS)
    kinds = [KINDS[number - 1] for number in sorted(numbers)]
    return VectorsSelection(
        kinds=tuple(kinds) or VectorsSelection().kinds,
        heads=entries(f"{field}.heads", selection.heads),
        queries=entries(f"{field}.queries", selection.queries),
        keys=entries(f"{field}.keys", selection.keys),
        dtype=selection.dtype or None,
    )


def entries(field: str, values: Sequence[int]) -> tuple[int, ...]:
    """Read a list of numbers. Raises InvalidRequestError (TOO_MANY) for a very long one."""
    if len(values) > MAX_ENTRIES:
        raise InvalidRequestError(
            field, f"expected at most {MAX_ENTRIES} entries; got {len(values)}", "TOO_MANY"
        )
    return tuple(values)


def check_dtype(field: str, dtype: pb.DataType.ValueType, expected: _DataTypes) -> None:
    """Raise InvalidRequestError (UNSUPPORTED_DTYPE) for a type that is not expected."""
    if dtype in expected:
        return
    expected_names = pb.DataType.DESCRIPTOR.values_by_number.get(dtype)
    got = (
        expected_names.name.removeprefix("DATA_TYPE_")
        if expected_names and dtype
        else dtype or "none"
    )
    raise InvalidRequestError(field, f"expected {_NAMES[expected]}; got {got}", "UNSUPPORTED_DTYPE")
