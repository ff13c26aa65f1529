"""Messages of an AttendStream: where in their bytes the requests lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead.framing import UnusualError, fields, header, tag
from polyhead.v1 import attention_pb2 as pb
from polyhead_server.codec import MAX_ENTRIES, StreamedPlace, canonical_bytes, parse
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["StreamMessage", "read_stream_message"]

_REQUESTS = tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER)
_CANCELLED_IDS = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER)
_CANCELLED_ID = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER << 3
_ID = pb.StreamedRequest.ID_FIELD_NUMBER << 3
_TIMEOUT_US = pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER << 3
_CALL = tag(pb.StreamedRequest.CALL_FIELD_NUMBER)


class StreamMessage(NamedTuple):
    """A message of a stream, and what is in it."""

    data: bytes
    places: list[StreamedPlace]
    cancelled: list[int]
    """Numbers of requests that are not wanted any more."""


def read_stream_message(data: bytes) -> StreamMessage:
    """Find the requests in an AttendStreamRequest; each is then read on its own.

    Raises InvalidRequestError (MALFORMED) for bytes that are none, or (TOO_MANY) too many at once.
    """
    try:
        return _stream_message(data)
    except UnusualError:
        return _stream_message(canonical_bytes(pb.AttendStreamRequest, data))


def _stream_message(data: bytes) -> StreamMessage:
    places: list[StreamedPlace] = []
    cancelled: list[int] = []
    for field, start, end in fields(data, 0, len(data)):
        if field == _REQUESTS:
            places.append(_streamed_place(data, start, end))
        elif field == _CANCELLED_IDS:
            cancelled += _ids(data[start:end])
        elif field == _CANCELLED_ID:
            cancelled.append(start)
    return StreamMessage(data, places, cancelled)


def _ids(packed: bytes) -> Sequence[int]:
    if len(packed) > MAX_ENTRIES:
        raise InvalidRequestError(
            "cancelled_ids", f"expected at most {MAX_ENTRIES} bytes at once", "TOO_MANY"
        )
    number = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER
    return parse(pb.AttendStreamRequest, header(number, len(packed)) + packed).cancelled_ids


def _streamed_place(data: bytes, start: int, end: int) -> StreamedPlace:
    number = timeout_us = call_start = call_end = 0
    for field, value, value_end in fields(data, start, end):
        if field == _ID:
            number = value
        elif field == _TIMEOUT_US:
            timeout_us = value
        elif field == _CALL:
            if call_end:
                raise UnusualError  # two, to be merged
            call_start, call_end = value, value_end
    return StreamedPlace(number, timeout_us, call_start, call_end)
