"""Attend's messages <-> the domain's values. Protobuf stops here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from polyhead.tensors import TensorError, fill_tensor, to_array
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.call import AttentionCall, WeightsSelection
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead_server.call import AttentionOutputs, Timing
    from polyhead_server.engine import Model

__all__ = ["decode_attend", "encode_attend", "parse"]

_M = TypeVar("_M", bound=Message)

_MAX_REQUEST_ID_BYTES = 256
_MAX_ENTRIES = 1 << 20
"""Most entries of a repeated field: more than a batch has sequences, and copied in no time."""
_FLOAT_TYPES = (
    pb.DATA_TYPE_FLOAT,
    pb.DATA_TYPE_FLOAT16,
    pb.DATA_TYPE_BFLOAT16,
    pb.DATA_TYPE_DOUBLE,
)


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
    request = parse(pb.AttendRequest, data)
    if len(request.request_id.encode()) > _MAX_REQUEST_ID_BYTES:
        raise InvalidRequestError(
            "request_id", f"expected at most {_MAX_REQUEST_ID_BYTES} bytes", "INVALID_VALUE"
        )
    query = _float_array(request, "query")
    if query is None:
        raise InvalidRequestError("query", "is required, and not set", "REQUIRED")
    output_dtype = request.output_dtype or request.query.dtype
    if output_dtype not in _FLOAT_TYPES:
        raise InvalidRequestError(
            "output_dtype",
            f"expected FLOAT, FLOAT16, BFLOAT16 or DOUBLE; got {output_dtype}",
            "UNSUPPORTED_DTYPE",
        )
    weights = None
    if request.HasField("attn_weights"):
        selection = request.attn_weights
        weights = WeightsSelection(
            _entries("attn_weights.heads", selection.heads),
            _entries("attn_weights.queries", selection.queries),
        )
    return AttentionCall(
        model=request.model,
        model_version=request.model_version,
        request_id=request.request_id,
        query=query,
        key=_float_array(request, "key"),
        value=_float_array(request, "value"),
        attn_mask=_array(request, "attn_mask"),
        kv_lengths=_entries("kv_lengths", request.kv_lengths),
        weights=weights,
        output_dtype=output_dtype,
    )


def encode_attend(
    call: AttentionCall, model: Model, outputs: AttentionOutputs, timing: Timing
) -> bytes:
    """Encode an AttendResponse, its tensors in the dtype that was asked for."""
    response = pb.AttendResponse(
        request_id=call.request_id,
        execution=pb.Execution(
            model=model.name,
            model_version=model.version,
            provider=model.providers[0],
            kernel=pb.ATTENTION_KERNEL_FUSED if outputs.is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
            queue_ms=timing.queue_ms,
            compute_ms=timing.compute_ms,
            batch_size=len(outputs.output),
        ),
    )
    fill_tensor(response.output, outputs.output, call.output_dtype)
    if outputs.attn_weights is not None:
        fill_tensor(response.attn_weights, outputs.attn_weights, call.output_dtype)
    return response.SerializeToString()


def _entries(field: str, values: Sequence[int]) -> tuple[int, ...]:
    if len(values) > _MAX_ENTRIES:
        raise InvalidRequestError(
            field, f"expected at most {_MAX_ENTRIES} entries; got {len(values)}", "TOO_MANY"
        )
    return tuple(values)


def _array(request: pb.AttendRequest, field: str) -> NDArray[Any] | None:
    """Read one of the request's tensors; None if it is not set."""
    if not request.HasField(field):  # type: ignore[arg-type]  # one of its tensor fields
        return None
    try:
        return to_array(getattr(request, field))
    except TensorError as error:
        raise InvalidRequestError(f"{field}.{error.field}", str(error), error.reason) from error


def _float_array(request: pb.AttendRequest, field: str) -> NDArray[Any] | None:
    array = _array(request, field)
    if array is not None and array.dtype == bool:
        raise InvalidRequestError(
            f"{field}.dtype", "expected a float type; got BOOL", "UNSUPPORTED_DTYPE"
        )
    return array
