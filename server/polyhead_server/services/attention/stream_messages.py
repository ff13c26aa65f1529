"""Messages of an AttendStream: where in their bytes the requests lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import (
    MAX_FIELDS,
    VARINT,
    UnsupportedWireFormat,
    header,
    iter_fields,
    read_varint,
    tag,
    varint,
)
from polyhead_server.codec.message_format import parse, parse_and_reserialize
from polyhead_server.codec.request_fields import MAX_ENTRIES
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from polyhead.wire.protobuf import Span

__all__ = ["StreamMessage", "read_stream_message"]

_REQUESTS = tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER)
_CANCELLED_IDS = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER)
_CANCELLED_ID = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER, VARINT)


class StreamMessage(NamedTuple):
    """A message of a stream."""

    data: bytes
    frames: list[Span]
    """Where each request lies, with the tag and the size before it."""
    cancelled_ids: list[bytes]
    """Ids of requests that are not wanted any more, as varints."""


def read_stream_message(data: bytes) -> StreamMessage:
    """Find the requests in an AttendStreamRequest. The requests themselves are not read.

    Raises InvalidRequestError: MALFORMED if the bytes do not parse, TOO_MANY for too many requests.
    """
    try:
        return _read(data)
    except UnsupportedWireFormat:
        return _read(parse_and_reserialize(pb.AttendStreamRequest, data))


def _read(data: bytes) -> StreamMessage:
    frames: list[Span] = []
    cancelled_ids: list[bytes] = []
    position = num_fields = 0
    while position < len(data):
        field, start, end = next(iter_fields(data, position, len(data)))
        frame = position, end
        if field == _REQUESTS:
            frames.append(frame)
            # requests of one size follow each other often: this takes a tenth of reading each
            head, size = data[position:start], end - position
            while data.startswith(head, end) and end + size <= len(data):
                frames.append((end, end + size))
                end += size
        elif field == _CANCELLED_IDS:
            cancelled_ids += _unpacked(data[start:end])
        elif field == _CANCELLED_ID:
            cancelled_ids.append(varint(read_varint(data, start)[0]))
        num_fields += 1
        if num_fields + len(frames) > MAX_FIELDS:
            raise UnsupportedWireFormat
        position = end
    return StreamMessage(data, frames, cancelled_ids)


def _unpacked(packed: bytes) -> list[bytes]:
    if len(packed) > MAX_ENTRIES:
        raise InvalidRequestError(
            "cancelled_ids", f"expected at most {MAX_ENTRIES} bytes at once", "TOO_MANY"
        )
    field = header(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER, len(packed))
    message = parse(pb.AttendStreamRequest, field + packed)
    return [varint(number) for number in message.cancelled_ids]
