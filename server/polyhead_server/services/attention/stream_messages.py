"""Messages of an AttendStream: where in their bytes the requests lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import MAX_FIELDS, UnusualError, fields, header, tag, varint
from polyhead.wire.template import numbered
from polyhead_server.codec.request import StreamedPlace, canonical_bytes, parse
from polyhead_server.codec.request_fields import MAX_ENTRIES
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from polyhead.wire.template import Records, Span

__all__ = ["StreamMessage", "StreamedRun", "number_of", "read_stream_message"]

_REQUESTS = tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER)
_CANCELLED_IDS = tag(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER)
_CANCELLED_ID = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER << 3
_NUM_AWAITED = pb.AttendStreamRequest.NUM_AWAITED_FIELD_NUMBER << 3
_ID = pb.StreamedRequest.ID_FIELD_NUMBER << 3
_TIMEOUT_US = pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER << 3
_CALL = tag(pb.StreamedRequest.CALL_FIELD_NUMBER)
_NOWHERE = 0, 0


class StreamMessage(NamedTuple):
    """A message of a stream, and what is in it."""

    data: bytes
    runs: list[StreamedRun]
    cancelled: list[bytes]
    """Ids of requests that are not wanted any more."""
    num_awaited: int
    """How many requests the caller awaits replies to; 0: not told."""

    @property
    def num_requests(self) -> int:
        """Number of its requests."""
        return sum(len(run.ids) for run in self.runs)


class StreamedRun(NamedTuple):
    """Requests of one size, one after the other, that differ in their ids and calls only."""

    ids: list[bytes]
    """What the caller knows them by, as he wrote it."""
    timeout_us: int
    call: Span
    """Where the first one's call lies in the message."""
    size: int
    """From one to the next."""
    records: Records | None = None
    """The requests as they were written; None of one."""
    id_span: Span = _NOWHERE
    """Where in a record its id lies."""
    call_span: Span = _NOWHERE
    """Where in a record its call lies."""

    def place(self, index: int) -> StreamedPlace:
        """Give the place of one of them."""
        start, end = self.call
        offset = index * self.size
        return StreamedPlace(self.ids[index], self.timeout_us, start + offset, end + offset)


def read_stream_message(data: bytes) -> StreamMessage:
    """Find the requests in an AttendStreamRequest; their calls are then read on their own.

    Raises InvalidRequestError (MALFORMED) for bytes that are none, or (TOO_MANY) too many at once.
    """
    try:
        return _stream_message(data)
    except UnusualError:
        return _stream_message(canonical_bytes(pb.AttendStreamRequest, data))


def number_of(stream_id: bytes) -> int:
    """Give the number that an id is."""
    [(_, number, _)] = fields(bytes((_ID,)) + stream_id, 0, 1 + len(stream_id))
    return number


def _stream_message(data: bytes) -> StreamMessage:
    runs: list[StreamedRun] = []
    cancelled: list[bytes] = []
    position = num_fields = num_awaited = 0
    while position < len(data):
        [(field, start, end)] = fields(data, position, len(data), 1)
        num_fields += 1
        if field == _REQUESTS:
            run = _run(data, position, start, end)
            runs.append(run)
            num_fields += len(run.ids) - 1
            end = position + len(run.ids) * run.size
        elif field == _CANCELLED_IDS:
            cancelled += _ids(data[start:end])
        elif field == _CANCELLED_ID:
            cancelled.append(varint(start))
        elif field == _NUM_AWAITED:
            num_awaited = start
        if num_fields > MAX_FIELDS:
            raise UnusualError
        position = end
    return StreamMessage(data, runs, cancelled, num_awaited)


def _run(data: bytes, begin: int, start: int, end: int) -> StreamedRun:
    """Find the requests that are alike from the one in ``data[start:end]`` on.

    Its own frame, which it is a field of the message with, begins before it.
    """
    number = timeout_us = 0
    id_span, call = _NOWHERE, _NOWHERE
    position = start
    for field, value, value_end in fields(data, start, end):
        if field == _ID:
            number, id_span = value, (position + 1 - begin, value_end - begin)
        elif field == _TIMEOUT_US:
            timeout_us = value
        elif field == _CALL:
            if call[1]:
                raise UnusualError  # two, to be merged
            call = value, value_end
        position = value_end
    size = end - begin
    call_span = (call[0] - begin, call[1] - begin) if call[1] else _NOWHERE
    found = numbered(data, begin, end, id_span, call_span)
    if found is not None:
        ids, records = found
        return StreamedRun(ids, timeout_us, call, size, records, id_span, call_span)
    return StreamedRun([varint(number)], timeout_us, call, size)


def _ids(packed: bytes) -> list[bytes]:
    if len(packed) > MAX_ENTRIES:
        raise InvalidRequestError(
            "cancelled_ids", f"expected at most {MAX_ENTRIES} bytes at once", "TOO_MANY"
        )
    field = header(pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER, len(packed))
    message = parse(pb.AttendStreamRequest, field + packed)
    return [varint(number) for number in message.cancelled_ids]
