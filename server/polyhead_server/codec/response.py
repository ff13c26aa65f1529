"""What a run gave -> the bytes of a reply, written by hand: one copy of each array (framing)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import header, varint
from polyhead.wire.template import beside
from polyhead.wire.tensors import encode_elements, tensor_head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.v1 import errors_pb2
    from polyhead_server.call import AttentionCall, AttentionOutputs, Timing
    from polyhead_server.engine.runtime import Model

__all__ = [
    "Reply",
    "rows_block",
    "streamed",
    "streamed_alike",
    "streamed_error",
    "tensors_of",
    "write_reply",
    "written_times",
]

_NUMBERS = {
    "output": pb.AttendResponse.OUTPUT_FIELD_NUMBER,
    "attn_weights": pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER,
    "top_keys": pb.AttendResponse.TOP_KEYS_FIELD_NUMBER,
}
_EXECUTION = pb.AttendResponse.EXECUTION_FIELD_NUMBER
_REQUEST_ID = pb.AttendResponse.REQUEST_ID_FIELD_NUMBER
_TIMES = struct.Struct("<BdBd")
_QUEUE_MS = pb.Execution.QUEUE_MS_FIELD_NUMBER << 3 | 1
_COMPUTE_MS = pb.Execution.COMPUTE_MS_FIELD_NUMBER << 3 | 1
_FIRST_ROW = bytes((pb.AttendRowsResponse.FIRST_ROW_FIELD_NUMBER << 3,))
_ID = bytes((pb.StreamedReply.ID_FIELD_NUMBER << 3,))


class Reply(NamedTuple):
    """A message in parts: what they are joined to."""

    parts: list[bytes | memoryview]
    size: int

    def joined(self) -> bytes:
        """Make the message."""
        return b"".join(self.parts)


def write_reply(
    call: AttentionCall,
    request_id: str,
    model: Model,
    outputs: AttentionOutputs,
    timing: Timing,
    *,
    count: int = 1,
) -> Reply:
    """Write an AttendResponse, its tensors in the dtype and form that were asked for.

    Of outputs of ``count`` such calls together it is what each is answered with: a part that is no
    bytes object has what differs, of one after the other; the size is that of one.
    """
    parts: list[bytes | memoryview] = []
    size = 0
    for field, array, dtype in tensors_of(call, outputs):
        elements = encode_elements(array, dtype)
        shape = array.shape if count == 1 else (len(array) // count, *array.shape[1:])
        head = tensor_head(_NUMBERS[field], dtype, shape)
        parts += (head, elements.data)
        size += len(head) + elements.nbytes // count
    execution = _execution_head(
        model.name, model.version, model.providers[0], outputs.is_fused, timing.batch_size
    ) + written_times(timing.queue_ms, timing.compute_ms)
    if request_id:
        name = request_id.encode()
        execution += header(_REQUEST_ID, len(name)) + name
    parts.append(execution)
    return Reply(parts, size + len(execution))


def written_times(queue_ms: float, compute_ms: float) -> bytes:
    """Write what an execution ends with: how long it took."""
    return _TIMES.pack(_QUEUE_MS, queue_ms, _COMPUTE_MS, compute_ms)


def tensors_of(
    call: AttentionCall, outputs: AttentionOutputs
) -> list[tuple[str, NDArray[Any], pb.DataType.ValueType]]:
    """Give what was computed: names, arrays, and the dtypes that were asked for."""
    output, attn_weights, top_keys, _ = outputs
    tensors: list[tuple[str, NDArray[Any], pb.DataType.ValueType]] = []
    if output is not None:
        if len(call.query.shape) == 4:  # heads came one by one, and go so
            by_head = output.reshape(*output.shape[:2], call.query.shape[1], -1)
            output = by_head.transpose(0, 2, 1, 3)
        tensors.append(("output", output, call.output_dtype))
    if attn_weights is not None:
        dtype = (call.weights and call.weights.dtype) or call.output_dtype
        tensors.append(("attn_weights", attn_weights, dtype))
    if top_keys is not None:
        tensors.append(("top_keys", top_keys, pb.DATA_TYPE_INT32))
    return tensors


def rows_block(first_row: int, block: Reply) -> Reply:
    """Write an AttendRowsResponse around a block of rows."""
    head = _FIRST_ROW + varint(first_row)
    head += header(pb.AttendRowsResponse.BLOCK_FIELD_NUMBER, block.size)
    return Reply([head, *block.parts], len(head) + block.size)


def streamed(stream_id: bytes, reply: Reply) -> Reply:
    """Write an AttendStreamResponse that has one reply. Several, joined, are one as well.

    ``stream_id``: a varint, as the request has it.
    """
    return _streamed(stream_id, pb.StreamedReply.RESPONSE_FIELD_NUMBER, reply)


def streamed_alike(stream_ids: list[bytes], reply: Reply) -> Reply:
    """Write an AttendStreamResponse that has the same reply but for their ids to several.

    The ids are of one size. Of the reply a part that is no bytes object has what differs.
    """
    outcome = header(pb.StreamedReply.RESPONSE_FIELD_NUMBER, reply.size)
    size = len(_ID) + len(stream_ids[0]) + len(outcome) + reply.size
    head = header(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER, size) + _ID
    replies = beside(len(stream_ids), [head, stream_ids, outcome, *reply.parts])
    return Reply([replies], len(replies))


def streamed_error(stream_id: bytes, status: errors_pb2.RpcStatus) -> Reply:
    """Write an AttendStreamResponse that has one failure."""
    data = status.SerializeToString()
    return _streamed(stream_id, pb.StreamedReply.ERROR_FIELD_NUMBER, Reply([data], len(data)))


def _streamed(stream_id: bytes, outcome: int, reply: Reply) -> Reply:
    head = _ID + stream_id + header(outcome, reply.size)
    size = len(head) + reply.size
    head = header(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER, size) + head
    return Reply([head, *reply.parts], len(head) + reply.size)


@lru_cache(maxsize=1024)
def _execution_head(
    model: str,
    version: int,
    provider: str,
    is_fused: bool,  # noqa: FBT001 - lru_cache takes it so in half the time
    batch_size: int,
) -> bytes:
    """Write a response's execution, all but how long it took, which is the rest of it."""
    head = pb.Execution(
        model=model,
        model_version=version,
        provider=provider,
        kernel=pb.ATTENTION_KERNEL_FUSED if is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
        batch_size=batch_size,
    ).SerializeToString()
    return header(_EXECUTION, len(head) + _TIMES.size) + head
