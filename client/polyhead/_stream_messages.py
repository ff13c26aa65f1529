"""AttendStream's messages: requests as they are written, and where replies lie.

Nothing here sends or waits.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.message import DecodeError

from polyhead.errors import PolyheadError, ServerError
from polyhead.framing import UnusualError, canonical, fields, header, tag, varint
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from polyhead._requests import PreparedCall

__all__ = [
    "ERROR",
    "RESPONSE",
    "Outcome",
    "StreamedCall",
    "cancelled_ids",
    "read_replies",
]

_REQUESTS = pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER
_CANCELLED_IDS = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER
_ID = bytes((pb.StreamedRequest.ID_FIELD_NUMBER << 3,))
_TIMEOUT_US = bytes((pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER << 3,))
_CALL = pb.StreamedRequest.CALL_FIELD_NUMBER
_REPLY_ID = pb.StreamedReply.ID_FIELD_NUMBER << 3
_REPLIES = tag(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER)
RESPONSE = tag(pb.StreamedReply.RESPONSE_FIELD_NUMBER)
ERROR = tag(pb.StreamedReply.ERROR_FIELD_NUMBER)
"""The tag of a reply's outcome says which it is."""

Outcome: TypeAlias = tuple[bytes, int, int] | PolyheadError
"""Where a request's AttendResponse lies, in the bytes of a message; or why there is none."""


class StreamedCall:
    """A request of a stream, until it is answered."""

    __slots__ = ("_body", "attempts", "deadline", "frame", "id", "is_written", "timeout_s")

    def __init__(self, call_id: int, call: PreparedCall, timeout_s: float) -> None:
        self.id = call_id
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


def read_replies(data: bytes) -> tuple[bytes, list[tuple[int, int, int, int]]]:
    """Find the replies of an AttendStreamResponse.

    Gives the bytes that they lie in, and of each its id, the tag of its outcome, 0 if it has none,
    and where that lies. Raises ServerError for bytes that are no such message.
    """
    try:
        try:
            return data, _find_replies(data)
        except UnusualError:
            data = canonical(pb.AttendStreamResponse, data)
            return data, _find_replies(data)
    except (DecodeError, UnusualError) as error:
        raise ServerError("the server's replies could not be read") from error


def _find_replies(data: bytes) -> list[tuple[int, int, int, int]]:
    found = []
    for reply_tag, start, end in fields(data, 0, len(data)):
        if reply_tag != _REPLIES:
            continue  # of a newer server
        call_id = outcome = outcome_start = outcome_end = 0
        for part, value, part_end in fields(data, start, end):
            if part == _REPLY_ID:
                call_id = value
            elif part in (RESPONSE, ERROR):
                if outcome:  # protobuf joins both, or takes the last
                    raise UnusualError
                outcome, outcome_start, outcome_end = part, value, part_end
        found.append((call_id, outcome, outcome_start, outcome_end))
    return found
