"""An AttendRequest without its arrays' values -> an AttentionCall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import TensorError, TensorLayout
from polyhead_server.call import TENSORS, AttentionCall, Stage, WeightsSelection
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    _DataTypes = frozenset[pb.DataType.ValueType]

__all__ = ["MAX_ENTRIES", "read_call", "refused_tensor"]

MAX_ENTRIES = 1 << 20
"""Most entries of a repeated field. A batch has fewer sequences, and copying them takes no time."""
_FLOATS: _DataTypes = frozenset(
    (pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE)
)
_MASKS: _DataTypes = _FLOATS | {pb.DATA_TYPE_BOOL}
_POSITIONS: _DataTypes = frozenset((pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64))
_NAMES = {_FLOATS: "FLOAT, FLOAT16, BFLOAT16 or DOUBLE", _POSITIONS: "INT32 or INT64"}
_NAMES[_MASKS] = f"BOOL, {_NAMES[_FLOATS]}"
_DTYPES = dict.fromkeys(TENSORS, _FLOATS)
_DTYPES |= {"attn_mask": _MASKS, "positions": _POSITIONS, "key_positions": _POSITIONS}


def refused_tensor(field: str, error: TensorError) -> InvalidRequestError:
    """Make the error for a field's tensor."""
    return InvalidRequestError(f"{field}.{error.field}", str(error), error.reason)


def read_call(request: pb.AttendRequest) -> AttentionCall:
    """Read a request. Raises InvalidRequestError if it contradicts itself."""
    layouts = {name: _layout(request, name, dtypes) for name, dtypes in _DTYPES.items()}
    query = layouts.pop("query")
    if query is None:
        raise InvalidRequestError("query", "is required, and not set", "REQUIRED")
    output_dtype = request.output_dtype or query.dtype
    _check_dtype("output_dtype", output_dtype, _FLOATS)
    return AttentionCall(
        model=request.model,
        model_version=request.model_version,
        query=query,
        kv_lengths=_entries("kv_lengths", request.kv_lengths),
        weights=_selection(request.attn_weights) if request.HasField("attn_weights") else None,
        output_dtype=output_dtype,
        need_output=not request.omit_output,
        **layouts,  # type: ignore[arg-type] # none of them is `payloads`
    )


def _layout(request: pb.AttendRequest, field: str, dtypes: _DataTypes) -> TensorLayout | None:
    """Read the dtype and shape of one of the request's tensors; None if it is not set."""
    if not request.HasField(field):  # type: ignore[arg-type]  # one of its tensor fields
        return None
    tensor: pb.Tensor = getattr(request, field)
    _check_dtype(f"{field}.dtype", tensor.dtype, dtypes)
    try:
        return TensorLayout.of(tensor)
    except TensorError as error:
        raise refused_tensor(field, error) from error


def _selection(selection: pb.AttnWeightsSelection) -> WeightsSelection:
    try:
        stage = Stage(selection.stage or Stage.WEIGHTS)
    except ValueError:
        known = ", ".join(stage.name for stage in Stage)
        raise InvalidRequestError(
            "attn_weights.stage", f"expected one of {known}; got {selection.stage}", "INVALID_VALUE"
        ) from None
    if selection.dtype:
        _check_dtype("attn_weights.dtype", selection.dtype, _FLOATS)
    return WeightsSelection(
        heads=_entries("attn_weights.heads", selection.heads),
        queries=_entries("attn_weights.queries", selection.queries),
        top_k=selection.top_k,
        average_heads=selection.average_heads,
        stage=stage,
        dtype=selection.dtype or None,
    )


def _entries(field: str, values: Sequence[int]) -> tuple[int, ...]:
    if len(values) > MAX_ENTRIES:
        raise InvalidRequestError(
            field, f"expected at most {MAX_ENTRIES} entries; got {len(values)}", "TOO_MANY"
        )
    return tuple(values)


def _check_dtype(field: str, dtype: pb.DataType.ValueType, expected: _DataTypes) -> None:
    if dtype in expected:
        return
    known = pb.DataType.DESCRIPTOR.values_by_number.get(dtype)
    got = known.name.removeprefix("DATA_TYPE_") if known and dtype else dtype or "none"
    raise InvalidRequestError(field, f"expected {_NAMES[expected]}; got {got}", "UNSUPPORTED_DTYPE")
