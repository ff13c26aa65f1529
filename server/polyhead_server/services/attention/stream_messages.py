"""Find the requests in the bytes of an AttendStream's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.limits import MAX_CANCELLED_IDS, MAX_STREAMED_REQUESTS
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
from polyhead_server.codec.message_format import parse, parse_and_reserialize, read_frame
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from polyhead.wire.protobuf import Span
    from polyhead_server.codec.message_format import StreamedFrame

__all__ = ["StreamMessage", "read_request_frame", "read_stream_message"]

_REQUESTS = tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER)
_CANCELLED_IDS = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER)
_MAX_ID_BYTES = 10
_CANCELLED_ID = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER, VARINT)


class StreamMessage(NamedTuple):
    """A message of a stream."""

    data: bytes
    frames: list[Span]
    """Each request's span, with its tag and its size."""
    cancelled_ids: list[bytes]
    """Ids of cancelled requests, as varints."""


def read_stream_message(data: bytes) -> StreamMessage:
    """Find the requests in an AttendStreamRequest, without reading them.

    Raises InvalidRequestError: MALFORMED if the bytes do not parse, TOO_MANY for too many requests.
    """
    try:
        return _read(data)
    except UnsupportedWireFormat:
        return _read(parse_and_reserialize(pb.AttendStreamRequest, data))


def _read(data: bytes) -> StreamMessage:
    frames: list[Span] = []
    cancelled_ids: list[bytes] = []
    position = num_others = 0
    while position < len(data):
        field, start, end = next(iter_fields(data, position, len(data)))
        frame = position, end
        if field == _REQUESTS:
            frames.append(frame)
            # Requests of one size often follow each other. Comparing their tag and size takes a
            # tenth of the time of reading them.
            head, size = data[position:start], end - position
            while data.startswith(head, end) and end + size <= len(data):
                frames.append((end, end + size))
                end += size
                if len(frames) > MAX_STREAMED_REQUESTS:
                    break
        elif field == _CANCELLED_IDS:
            cancelled_ids += _unpacked(data[start:end])
        elif field == _CANCELLED_ID:
            cancelled_ids.append(varint(read_varint(data, start)[0]))
        else:
            num_others += 1
        _check_count("requests", len(frames), MAX_STREAMED_REQUESTS)
        _check_count("cancelled_ids", len(cancelled_ids), MAX_CANCELLED_IDS)
        _check_count("request", num_others, MAX_FIELDS)
        position = end
    return StreamMessage(data, frames, cancelled_ids)


def read_request_frame(data: bytes, start: int, end: int) -> StreamedFrame:
    """Read a request without its call. Raises InvalidRequestError (MALFORMED)."""
    try:
        return read_frame(data, start, end)
    except UnsupportedWireFormat:
        data = parse_and_reserialize(pb.AttendStreamRequest, data[start:end])
        return read_frame(data, 0, len(data))


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        raise InvalidRequestError(field, f"expected at most {limit} in a message", "TOO_MANY")


def _unpacked(packed: bytes) -> list[bytes]:
    if len(packed) > MAX_CANCELLED_IDS * _MAX_ID_BYTES:
        _check_count("cancelled_ids", len(packed), MAX_CANCELLED_IDS)
    field = header(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER, len(packed))
    ids = parse(pb.AttendStreamRequest, field + packed).cancelled_ids
    _check_count("cancelled_ids", len(ids), MAX_CANCELLED_IDS)
    return [varint(number) for number in ids]
