"""The messages of AttendStream: write requests, find replies. Nothing here sends or waits."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from polyhead._calls.response_format import ERROR, STREAM_ID, STREAMED, unreadable_error
from polyhead.errors import PolyheadError, ServerError
from polyhead.results import AttentionResult
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import (
    ABSENT,
    VARINT,
    UnsupportedWireFormat,
    canonical_varint,
    header,
    iter_fields,
    reserialize,
    tag,
    varint,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead._calls.request import PreparedCall
    from polyhead._calls.response_format import ResponseMatch

_REQUESTS = pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER
_CANCELLED_IDS = pb.AttendStreamRequest.CANCELLED_IDS_FIELD_NUMBER
_ID = bytes((pb.StreamedRequest.ID_FIELD_NUMBER << 3,))
_TIMEOUT_US = bytes((pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER << 3,))
_CALL = pb.StreamedRequest.CALL_FIELD_NUMBER
_REPLY_ID = tag(pb.StreamedReply.ID_FIELD_NUMBER, VARINT)
_REPLIES = tag(pb.AttendStreamResponse.REPLIES_FIELD_NUMBER)
_MAX_GROUP = 64
"""Most replies that are read as one group."""
_MAX_GROUPED_BYTES = 16 << 10
"""Larger replies are read one by one, because grouping them saves no time."""

Outcome: TypeAlias = AttentionResult | PolyheadError
"""The result of a request, or the error that it failed with."""


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
        """The number as a varint. Replies are matched to requests by these bytes."""
        self.expected = call.expected
        """The contents that the reply must have."""
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.attempts = 0
        """Number of streams that ended before the request was answered."""
        self.is_written = False
        self._size = call.size
        # Joined now, because the caller may change its arrays before the frame is written.
        before, after = _around_id(len(self.id), timeout_s, call.size)
        self.frame = b"".join((before, self.id, after, *call.parts))  # type: ignore[arg-type]
        """The request as a field of an AttendStreamRequest. Alone it is such a message, too."""

    def resolve(self, outcome: Outcome) -> None:
        """Give the outcome to the caller that waits for it."""
        raise NotImplementedError

    def reset_for_resend(self) -> None:
        """Prepare the request for another stream, with the remaining time as its timeout."""
        left_s = self.deadline - time.monotonic()
        before, after = _around_id(len(self.id), left_s, self._size)
        self.frame = b"".join((before, self.id, after, self.frame[-self._size :]))
        self.is_written = False


@lru_cache(maxsize=256)  # most requests are of few sizes, and have their client's timeout
def _around_id(id_size: int, timeout_s: float, call_size: int) -> tuple[bytes, bytes]:
    """Write a request's bytes before its id, and those between its id and its call."""
    timeout_us = max(1, int(timeout_s * 1e6))  # 0 would be no timeout
    after = _TIMEOUT_US + varint(timeout_us) + header(_CALL, call_size)
    return header(_REQUESTS, len(_ID) + id_size + len(after) + call_size) + _ID, after


def cancelled_ids(ids: list[bytes]) -> bytes:
    """Write the field that cancels requests."""
    packed = b"".join(ids)
    return header(_CANCELLED_IDS, len(packed)) + packed


class ReplyGroup(NamedTuple):
    """Replies of one template to some requests of a stream."""

    ids: list[bytes]
    """The requests' ids, as varints."""
    match: ResponseMatch | None
    """The responses; None if the reply cannot be read."""
    error: bytes | ServerError | None = None
    """The serialised RpcStatus of a request that failed, or why the reply cannot be read."""


def read_replies(data: bytes) -> Iterator[ReplyGroup]:
    """Find the replies of an AttendStreamResponse.

    Raises ServerError for bytes that are not such a message.
    """
    position = 0
    while position < len(data):
        try:
            field, start, end = next(iter_fields(data, position, len(data)))
        except UnsupportedWireFormat:
            data, position = _reserialize(data[position:]), 0
            continue
        if field == _REPLIES:  # a newer server may send other fields
            group = _read_group(data, position, start, end)
            yield group
            end += (len(group.ids) - 1) * (end - position)
        position = end


def _reserialize(data: bytes) -> bytes:
    try:
        return reserialize(pb.AttendStreamResponse, data)
    except DecodeError as error:
        raise unreadable_error() from error


def _read_group(data: bytes, position: int, start: int, end: int) -> ReplyGroup:
    """Read the reply in ``data[start:end]``, whose frame begins at ``position``, and its group."""
    try:
        match = STREAMED.match(data, position, end)
    except ServerError as error:
        return ReplyGroup([_read_id(data, start, end)], None, error)
    if match.value is not None and end - position < _MAX_GROUPED_BYTES and match.data is data:
        match = match.extended(_MAX_GROUP)
        if match.count > 1:
            return ReplyGroup(match.column(STREAM_ID), match)
    status = match.payload(ERROR) if match.span(ERROR) != ABSENT else None
    return ReplyGroup([canonical_varint(match.payload(STREAM_ID))], match, status)


def _read_id(data: bytes, start: int, end: int) -> bytes:
    """Read the id of a reply that cannot be read otherwise. Raises ServerError."""
    stream_id = b""
    try:
        for field, value_start, value_end in iter_fields(data, start, end):
            if field == _REPLY_ID:
                stream_id = data[value_start:value_end]
    except UnsupportedWireFormat:
        try:
            return varint(pb.StreamedReply.FromString(data[start:end]).id)
        except DecodeError as error:
            raise unreadable_error() from error
    return canonical_varint(stream_id)
