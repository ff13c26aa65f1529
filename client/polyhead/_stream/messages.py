"""AttendStream's messages: requests as they are written, and where replies lie.

Nothing here sends or waits.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from polyhead.errors import PolyheadError, ServerError
from polyhead.results import AttentionResult
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import UnusualError, canonical, fields, header, tag, varint
from polyhead.wire.template import Records, numbered

if TYPE_CHECKING:
    from polyhead._calls.request import PreparedCall
    from polyhead.wire.template import Span

__all__ = [
    "ERROR",
    "RESPONSE",
    "Outcome",
    "Replies",
    "PendingRequest",
    "cancelled_ids",
    "num_awaited",
    "read_replies",
]

_REQUESTS = pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER
_CANCELLED_IDS = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER
_NUM_AWAITED = bytes((pb.AttendStreamRequest.NUM_AWAITED_FIELD_NUMBER << 3,))
_ID = bytes((pb.StreamedRequest.ID_FIELD_NUMBER << 3,))
_TIMEOUT_US = bytes((pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER << 3,))
_CALL = pb.StreamedRequest.CALL_FIELD_NUMBER
_REPLY_ID = pb.StreamedReply.ID_FIELD_NUMBER << 3
_REPLIES = tag(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER)
RESPONSE = tag(pb.StreamedReply.RESPONSE_FIELD_NUMBER)
ERROR = tag(pb.StreamedReply.ERROR_FIELD_NUMBER)
"""The tag of a reply's outcome says which it is."""

_MAX_ALIKE_BYTES = 16 << 10
"""Larger replies gain nothing by being read together."""

Outcome: TypeAlias = AttentionResult | PolyheadError
"""What a request gave, or why it gave nothing."""


class PendingRequest:
    """A request of a stream, until it is answered."""

    __slots__ = (
        "_size",
        "attempts",
        "deadline",
        "expected",
        "frame",
        "id",
        "is_written",
        "number",
        "timeout_s",
    )

    def __init__(self, number: int, call: PreparedCall, timeout_s: float) -> None:
        self.number = number
        self.id = varint(number)
        """As it is written: what finds a reply's request, without reading a number."""
        self.expected = call.expected
        """What its reply is read with."""
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.attempts = 0
        """How many streams have broken under it."""
        self.is_written = False
        self._size = call.size
        # Joined at once: by the time that it is written, the caller may have changed its arrays.
        before, after = _around_id(len(self.id), timeout_s, call.size)
        self.frame = b"".join((before, self.id, after, *call.parts))  # type: ignore[arg-type]
        """The request as messages hold it, one or several of them; by itself it is a message."""

    def resolve(self, outcome: Outcome) -> None:
        """Give the outcome to whoever waits for it."""
        raise NotImplementedError

    def reset_for_resend(self) -> None:
        """Make it ready to be written to another stream, with the time that is left."""
        left_s = self.deadline - time.monotonic()
        before, after = _around_id(len(self.id), left_s, self._size)
        self.frame = b"".join((before, self.id, after, self.frame[-self._size :]))
        self.is_written = False


@lru_cache(maxsize=256)  # most requests are of few sizes, and have their client's timeout
def _around_id(id_size: int, timeout_s: float, call_size: int) -> tuple[bytes, bytes]:
    """Write what stands before a request's id, and what stands between that and its call."""
    timeout_us = max(1, int(timeout_s * 1e6))  # 0 would be no timeout
    after = _TIMEOUT_US + varint(timeout_us) + header(_CALL, call_size)
    return header(_REQUESTS, len(_ID) + id_size + len(after) + call_size) + _ID, after


def cancelled_ids(ids: list[bytes]) -> bytes:
    """Write that requests are not wanted any more."""
    packed = b"".join(ids)
    return header(_CANCELLED_IDS, len(packed)) + packed


def num_awaited(count: int) -> bytes:
    """Write that replies to so many requests are awaited."""
    return _NUM_AWAITED + varint(count)


class Replies(NamedTuple):
    """Replies that differ in their ids and outcomes only."""

    ids: list[bytes]
    """As they are written."""
    outcome: int
    """The tag of the first one's, as of all; 0: it has none."""
    span: Span
    """Where in a record its outcome lies."""
    records: Records

    def first(self) -> bytes:
        """Give the first one's outcome."""
        data, begin, (start, end) = self.records.data, self.records.begin, self.span
        return data[begin + start : begin + end]


def read_replies(data: bytes) -> list[Replies]:
    """Find the replies of an AttendStreamResponse.

    Raises ServerError for bytes that are no such message.
    """
    try:
        try:
            return _find_replies(data)
        except UnusualError:
            return _find_replies(canonical(pb.AttendStreamResponse, data))
    except (DecodeError, UnusualError) as error:
        raise ServerError("the server's replies could not be read") from error


def _find_replies(data: bytes) -> list[Replies]:
    found = []
    begin = 0
    while begin < len(data):
        [(field, start, end)] = fields(data, begin, len(data), 1)
        if field == _REPLIES:  # and not of a newer server
            replies = _replies_from(data, begin, start, end)
            found.append(replies)
            end = begin + len(replies.ids) * (end - begin)
        begin = end
    return found


def _replies_from(data: bytes, begin: int, start: int, end: int) -> Replies:
    """Find the replies that are alike from the one in ``data[start:end]`` on.

    Its own frame, which it is a field of the message with, begins before it.
    """
    call_id = outcome = 0
    id_span = span = 0, 0
    position = start
    for part, value, value_end in fields(data, start, end):
        if part == _REPLY_ID:
            call_id, id_span = value, (position + 1 - begin, value_end - begin)
        elif part in (RESPONSE, ERROR):
            if outcome:  # protobuf joins both, or takes the last
                raise UnusualError
            outcome, span = part, (value - begin, value_end - begin)
        position = value_end
    if outcome == RESPONSE and end - begin < _MAX_ALIKE_BYTES:
        alike = numbered(data, begin, end, id_span, span)
        if alike is not None:
            ids, records = alike
            return Replies(ids, outcome, span, records)
    return Replies([varint(call_id)], outcome, span, Records(data, begin, end - begin, 1))
