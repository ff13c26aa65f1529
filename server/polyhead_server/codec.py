"""Attend's messages <-> the domain's values. Protobuf stops here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from polyhead.tensors import TensorError, fill_tensor, to_array
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.call import AttentionCall, Stage, WeightsSelection
from polyhead_server.errors import InvalidRequestError, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead_server.call import AttentionOutputs, Timing
    from polyhead_server.engine import Model

    _DataTypes = frozenset[pb.DataType.ValueType]

__all__ = ["decode_attend", "decode_attend_rows", "encode_attend", "encode_rows", "parse"]

_M = TypeVar("_M", bound=Message)

_MAX_REQUEST_ID_BYTES = 256
_MAX_ENTRIES = 1 << 20
"""Most entries of a repeated field: more than a batch has sequences, and copied in no time."""
_FLOATS: _DataTypes = frozenset(
    (pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE)
)
_MASKS: _DataTypes = _FLOATS | {pb.DATA_TYPE_BOOL}
_POSITIONS: _DataTypes = frozenset((pb.DATA_TYPE_INT32, pb.DATA_TYPE_INT64))
_NAMES = {_FLOATS: "FLOAT, FLOAT16, BFLOAT16 or DOUBLE", _POSITIONS: "INT32 or INT64"}
_NAMES[_MASKS] = f"BOOL, {_NAMES[_FLOATS]}"


def parse(message_type: type[_M], data: bytes) -> _M:
    """Parse a message. Raises InvalidRequestError (MALFORMED) for bytes that are none."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise InvalidRequestError(
            "request", f"expected a serialized {name}; the bytes are not one", "MALFORMED"
        ) from None


def decode_attend(data: bytes) -> AttentionCall:
    """Decode an AttendRequest, its tensors as views of their bytes.

    Raises InvalidRequestError for a message that contradicts itself; whether it fits the model
    is for validation to say.
    """
    return _call(parse(pb.AttendRequest, data))


def decode_attend_rows(data: bytes) -> tuple[AttentionCall, int]:
    """Decode an AttendRowsRequest: the call, and how many rows a block shall have.

    Raises as decode_attend does.
    """
    request = parse(pb.AttendRowsRequest, data)
    with within("call"):
        return _call(request.call), request.rows_per_block


def encode_attend(
    call: AttentionCall, model: Model, outputs: AttentionOutputs, timing: Timing
) -> bytes:
    """Encode an AttendResponse, its tensors in the dtype and form that were asked for."""
    response = pb.AttendResponse()
    _fill_response(response, call, model, outputs, timing)
    return response.SerializeToString()


def encode_rows(
    call: AttentionCall, model: Model, first_row: int, outputs: AttentionOutputs, timing: Timing
) -> bytes:
    """Encode an AttendRowsResponse: a block of rows."""
    response = pb.AttendRowsResponse(first_row=first_row)
    _fill_response(response.block, call, model, outputs, timing)
    return response.SerializeToString()


def _call(request: pb.AttendRequest) -> AttentionCall:
    if len(request.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(
            "request_id", f"expected at most {_MAX_REQUEST_ID_BYTES} bytes", "INVALID_VALUE"
        )
    query = _array(request, "query", _FLOATS)
    if query is None:
        raise InvalidRequestError("query", "is required, and not set", "REQUIRED")
    output_dtype = request.output_dtype or request.query.dtype
    _check_dtype("output_dtype", output_dtype, _FLOATS)
    return AttentionCall(
        model=request.model,
        model_version=request.model_version,
        request_id=request.request_id,
        query=query,
        key=_array(request, "key", _FLOATS),
        value=_array(request, "value", _FLOATS),
        attn_mask=_array(request, "attn_mask", _MASKS),
        kv_lengths=_entries("kv_lengths", request.kv_lengths),
        weights=_selection(request.attn_weights) if request.HasField("attn_weights") else None,
        output_dtype=output_dtype,
        positions=_array(request, "positions", _POSITIONS),
        key_positions=_array(request, "key_positions", _POSITIONS),
        need_output=not request.omit_output,
    )


def _selection(selection: pb.AttnWeightsSelection) -> WeightsSelection:
    try:
        stage = Stage(selection.stage or Stage.WEIGHTS)
    except ValueError:
        known = ", ".join(stage.name for stage in Stage)
        raise InvalidRequestError(
            "attn_weights.stage",
            f"expected one of {known}; got {selection.stage}",
            "INVALID_VALUE",
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
    if len(values) > _MAX_ENTRIES:
        raise InvalidRequestError(
            field, f"expected at most {_MAX_ENTRIES} entries; got {len(values)}", "TOO_MANY"
        )
    return tuple(values)


def _array(request: pb.AttendRequest, field: str, dtypes: _DataTypes) -> NDArray[Any] | None:
    """Read one of the request's tensors; None if it is not set."""
    if not request.HasField(field):  # type: ignore[arg-type]  # one of its tensor fields
        return None
    tensor: pb.Tensor = getattr(request, field)
    _check_dtype(f"{field}.dtype", tensor.dtype, dtypes)
    try:
        return to_array(tensor)
    except TensorError as error:
        raise InvalidRequestError(f"{field}.{error.field}", str(error), error.reason) from error


def _check_dtype(field: str, dtype: pb.DataType.ValueType, expected: _DataTypes) -> None:
    if dtype in expected:
        return
    known = pb.DataType.DESCRIPTOR.values_by_number.get(dtype)
    got = known.name.removeprefix("DATA_TYPE_") if known and dtype else dtype or "none"
    raise InvalidRequestError(field, f"expected {_NAMES[expected]}; got {got}", "UNSUPPORTED_DTYPE")


def _fill_response(
    response: pb.AttendResponse,
    call: AttentionCall,
    model: Model,
    outputs: AttentionOutputs,
    timing: Timing,
) -> None:
    kernel = pb.ATTENTION_KERNEL_FUSED if outputs.is_fused else pb.ATTENTION_KERNEL_EXPLICIT
    response.request_id = call.request_id
    response.execution.model = model.name
    response.execution.model_version = model.version
    response.execution.provider = model.providers[0]
    response.execution.kernel = kernel
    response.execution.queue_ms = timing.queue_ms
    response.execution.compute_ms = timing.compute_ms
    response.execution.batch_size = len(call.query)
    if outputs.output is not None:
        output = outputs.output
        if call.query.ndim == 4:  # heads came one by one, and go so
            batch_size, q_seq_len, _ = output.shape
            by_head = output.reshape(batch_size, q_seq_len, call.query.shape[1], -1)
            output = by_head.transpose(0, 2, 1, 3)
        fill_tensor(response.output, output, call.output_dtype)
    if call.weights is not None and outputs.attn_weights is not None:
        dtype = call.weights.dtype or call.output_dtype
        fill_tensor(response.attn_weights, outputs.attn_weights, dtype)
    if outputs.top_keys is not None:
        fill_tensor(response.top_keys, outputs.top_keys)
