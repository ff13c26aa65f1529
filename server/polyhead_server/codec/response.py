"""Outputs -> the bytes of a response, without protobuf, so that each array is copied once."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import header, varint
from polyhead.wire.template import interleave
from polyhead.wire.tensors import encode_elements, tensor_head
from polyhead_server.head_vectors import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.v1 import errors_pb2
    from polyhead_server.call import AttentionCall, AttentionOutputs, ExecutionInfo, Timing
    from polyhead_server.head_vectors import HeadVectors

__all__ = [
    "Response",
    "nested",
    "pack_times",
    "rows_block",
    "streamed_error",
    "streamed_responses",
    "tensors_of",
    "write_execution",
    "write_response",
    "write_vectors",
]

_NUMBERS = {
    "output": pb.AttendResponse.OUTPUT_FIELD_NUMBER,
    "attn_weights": pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER,
    "top_keys": pb.AttendResponse.TOP_KEYS_FIELD_NUMBER,
}
_HEAD_VECTORS = pb.AttendResponse.HEAD_VECTORS_FIELD_NUMBER
_VECTOR_NUMBERS = {kind: pb.HeadVectors.DESCRIPTOR.fields_by_name[kind].number for kind in KINDS}
_EXECUTION = pb.AttendResponse.EXECUTION_FIELD_NUMBER
_REQUEST_ID = pb.AttendResponse.REQUEST_ID_FIELD_NUMBER
_TIMES = struct.Struct("<BdBd")
_QUEUE_MS = pb.Execution.QUEUE_MS_FIELD_NUMBER << 3 | 1
_COMPUTE_MS = pb.Execution.COMPUTE_MS_FIELD_NUMBER << 3 | 1
_FIRST_ROW = bytes((pb.AttendRowsResponse.FIRST_ROW_FIELD_NUMBER << 3,))
_ID = bytes((pb.StreamedReply.ID_FIELD_NUMBER << 3,))


class Response(NamedTuple):
    """The bytes of a message in parts."""

    parts: list[bytes | memoryview]
    size: int
    """Size of the message in bytes."""

    @classmethod
    def of(cls, data: bytes) -> Response:
        """Make a response of one part."""
        return cls([data], len(data))

    def joined(self) -> bytes:
        """Join the parts."""
        return b"".join(self.parts)


def write_response(
    call: AttentionCall,
    request_id: str,
    executed_by: ExecutionInfo,
    outputs: AttentionOutputs,
    timing: Timing,
    *,
    count: int = 1,
) -> Response:
    """Write an AttendResponse with its tensors in the requested dtype and layout.

    If ``outputs`` are those of ``count`` requests, the parts are columns (see interleave): all
    responses share `bytes` parts, and memoryview parts have the bytes of each response, one after
    the other. ``size`` is that of one response.
    """
    parts: list[bytes | memoryview] = []
    size = 0
    for field, array, dtype in tensors_of(call, outputs):
        elements = encode_elements(array, dtype)
        shape = array.shape if count == 1 else (len(array) // count, *array.shape[1:])
        head = tensor_head(_NUMBERS[field], dtype, shape)
        parts += (head, elements.data)
        size += len(head) + elements.nbytes // count
    if outputs.vectors is not None:
        dtype = (call.vectors and call.vectors.dtype) or call.output_dtype
        vectors = nested(_HEAD_VECTORS, [write_vectors(outputs.vectors, dtype, count=count)])
        parts += vectors.parts
        size += vectors.size
    execution = _execution_head(*executed_by, outputs.is_fused, timing.batch_size)
    execution += pack_times(timing.queue_ms, timing.compute_ms)
    if request_id:
        name = request_id.encode()
        execution += header(_REQUEST_ID, len(name)) + name
    parts.append(execution)
    return Response(parts, size + len(execution))


def write_vectors(
    vectors: HeadVectors, dtype: pb.DataType.ValueType, *, count: int = 1
) -> Response:
    """Write HeadVectors; ``count`` as for write_response."""
    parts: list[bytes | memoryview] = []
    size = 0
    for kind, array in vectors.items():
        elements = encode_elements(array, dtype)
        shape = (len(array) // count, *array.shape[1:])
        head = tensor_head(_VECTOR_NUMBERS[kind], dtype, shape)
        parts += (head, elements.data)
        size += len(head) + elements.nbytes // count
    return Response(parts, size)


def nested(number: int, inner: list[Response]) -> Response:
    """Write a message that is field ``number`` of another message, from its own fields."""
    size = sum(response.size for response in inner)
    head = header(number, size)
    parts = [head, *(part for response in inner for part in response.parts)]
    return Response(parts, len(head) + size)


def write_execution(executed_by: ExecutionInfo, is_fused: bool, timing: Timing) -> bytes:  # noqa: FBT001
    """Write an Execution by itself."""
    model, version, provider = executed_by
    return pb.Execution(
        model=model,
        model_version=version,
        provider=provider,
        kernel=pb.ATTENTION_KERNEL_FUSED if is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
        queue_ms=timing.queue_ms,
        compute_ms=timing.compute_ms,
        batch_size=timing.batch_size,
    ).SerializeToString()


def pack_times(queue_ms: float, compute_ms: float) -> bytes:
    """Write the end of an execution: waiting time and run time."""
    return _TIMES.pack(_QUEUE_MS, queue_ms, _COMPUTE_MS, compute_ms)


def tensors_of(
    call: AttentionCall, outputs: AttentionOutputs
) -> list[tuple[str, NDArray[Any], pb.DataType.ValueType]]:
    """Return name, array and requested dtype of each computed tensor."""
    output, attn_weights, top_keys, *_ = outputs
    tensors: list[tuple[str, NDArray[Any], pb.DataType.ValueType]] = []
    if output is not None:
        if len(call.query.shape) == 4:  # the request has separate heads, so the response has, too
            by_head = output.reshape(*output.shape[:2], call.query.shape[1], -1)
            output = by_head.transpose(0, 2, 1, 3)
        tensors.append(("output", output, call.output_dtype))
    if attn_weights is not None:
        dtype = (call.weights and call.weights.dtype) or call.output_dtype
        tensors.append(("attn_weights", attn_weights, dtype))
    if top_keys is not None:
        tensors.append(("top_keys", top_keys, pb.DATA_TYPE_INT32))
    return tensors


def rows_block(first_row: int, block: Response) -> Response:
    """Write an AttendRowsResponse around a block of rows."""
    head = _FIRST_ROW + varint(first_row)
    head += header(pb.AttendRowsResponse.BLOCK_FIELD_NUMBER, block.size)
    return Response([head, *block.parts], len(head) + block.size)


def streamed_responses(stream_ids: list[bytes], response: Response) -> Response:
    """Write an AttendStreamResponse with a response to each of these requests.

    ``stream_ids``: the requests' ids, varints of one size. ``response``: the result of
    write_response for these requests. Several AttendStreamResponses, one after the other, are one.
    """
    outcome = header(pb.StreamedReply.RESPONSE_FIELD_NUMBER, response.size)
    if len(stream_ids) == 1:
        return _streamed(stream_ids[0], outcome, response)
    size = len(_ID) + len(stream_ids[0]) + len(outcome) + response.size
    head = header(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER, size) + _ID
    columns = [head, stream_ids, outcome, *response.parts]
    return Response.of(interleave(len(stream_ids), columns))


def streamed_error(stream_id: bytes, status: errors_pb2.RpcStatus) -> Response:
    """Write an AttendStreamResponse with one error."""
    error = Response.of(status.SerializeToString())
    return _streamed(stream_id, header(pb.StreamedReply.ERROR_FIELD_NUMBER, error.size), error)


def _streamed(stream_id: bytes, outcome: bytes, response: Response) -> Response:
    head = _ID + stream_id + outcome
    size = len(head) + response.size
    head = header(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER, size) + head
    return Response([head, *response.parts], len(head) + response.size)


@lru_cache(maxsize=1024)
def _execution_head(
    model: str,
    version: int,
    provider: str,
    is_fused: bool,  # noqa: FBT001 - lru_cache finds positional arguments faster
    batch_size: int,
) -> bytes:
    """Write a response's execution without its times, which must follow."""
    head = pb.Execution(
        model=model,
        model_version=version,
        provider=provider,
        kernel=pb.ATTENTION_KERNEL_FUSED if is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
        batch_size=batch_size,
    ).SerializeToString()
    return header(_EXECUTION, len(head) + _TIMES.size) + head
