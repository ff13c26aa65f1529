"""AttendStream's messages: requests as they are written, and where replies lie.

Nothing here sends or waits.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from polyhead.alike import numbered
from polyhead.errors import PolyheadError, ServerError
from polyhead.framing import UnusualError, canonical, fields, header, tag, varint
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from polyhead._replies import Response
    from polyhead._requests import PreparedCall
    from polyhead.alike import Rows

__all__ = [
    "ERROR",
    "RESPONSE",
    "Outcome",
    "Replies",
    "StreamedCall",
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

Outcome: TypeAlias = "Response | PolyheadError"
"""A request's AttendResponse; or why there is none."""


class StreamedCall:
    """A request of a stream, until it is answered."""

    __slots__ = ("_body", "attempts", "deadline", "facts", "frame", "id", "is_written", "timeout_s")

    def __init__(self, call_id: int, call: PreparedCall, timeout_s: float) -> None:
        self.id = call_id
        self.facts = call.facts
        """What its reply is read with."""
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.attempts = 0
        """How many streams have broken under it."""
        self.is_written = False
        body = header(_CALL, call.size)
        start = self._start(timeout_s, len(body) + call.size)
        self._body = len(start)
        # Joined at once: by the time that it is written, the caller may have changed its arrays.
        self.frame = b"".join((start, body, *call.parts))  # type: ignore[arg-type]
        """The request as messages hold it, one or several of them; by itself it is a message."""

    def resolve(self, outcome: Outcome) -> None:
        """Give the outcome to whoever waits for it."""
        raise NotImplementedError

    def renew(self) -> None:
        """Make it ready to be written to another stream, with the time that is left."""
        body = self.frame[self._body :]
        start = self._start(self.deadline - time.monotonic(), len(body))
        self.frame, self._body = start + body, len(start)
        self.is_written = False

    def _start(self, timeout_s: float, body_size: int) -> bytes:
        """Write what stands before the field `call`."""
        id_and_timeout = _ID + varint(self.id) + _timeout(timeout_s)
        return header(_REQUESTS, len(id_and_timeout) + body_size) + id_and_timeout


@lru_cache(maxsize=64)  # most requests have their client's
def _timeout(timeout_s: float) -> bytes:
    return _TIMEOUT_US + varint(max(1, int(timeout_s * 1e6)))  # 0 would be no timeout


def cancelled_ids(ids: list[int]) -> bytes:
    """Write that requests are not wanted any more."""
    packed = b"".join(map(varint, ids))
    return header(_CANCELLED_IDS, len(packed)) + packed


def num_awaited(count: int) -> bytes:
    """Write that replies to so many requests are awaited."""
    return _NUM_AWAITED + varint(count)


class Replies(NamedTuple):
    """Replies of one size, one after the other, that differ in their ids and outcomes only."""

    ids: list[int]
    outcome: int
    """The tag of the first one's, as of all; 0: it has none."""
    start: int
    """Where the first one's lies in the message."""
    end: int
    rows: Rows | None = None
    """The outcomes; None of one reply."""


def read_replies(data: bytes) -> tuple[bytes, list[Replies]]:
    """Find the replies of an AttendStreamResponse, and the bytes that they lie in.

    Raises ServerError for bytes that are no such message.
    """
    try:
        try:
            return data, _find_replies(data)
        except UnusualError:
            data = canonical(pb.AttendStreamResponse, data)
            return data, _find_replies(data)
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
    call_id = outcome = first = last = 0
    id_span = 0, 0
    position = start
    for part, value, value_end in fields(data, start, end):
        if part == _REPLY_ID:
            call_id, id_span = value, (position + 1 - begin, value_end - begin)
        elif part in (RESPONSE, ERROR):
            if outcome:  # protobuf joins both, or takes the last
                raise UnusualError
            outcome, first, last = part, value, value_end
        position = value_end
    if outcome == RESPONSE and end - begin < _MAX_ALIKE_BYTES:
        span = first - begin, last - begin
        alike = numbered(data, begin, end, id_span, span)
        if alike is not None:
            ids, rows = alike
            return Replies(ids, outcome, first, last, rows[:, slice(*span)])
    return Replies([call_id], outcome, first, last)
