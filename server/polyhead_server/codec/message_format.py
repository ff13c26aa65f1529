"""The layout of requests on the wire: which of their fields are payloads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import (
    ABSENT,
    VARINT,
    Extracted,
    UnsupportedWireFormat,
    extract_payloads,
    iter_fields,
    read_varint,
    reserialize,
    tag,
    varint,
)
from polyhead_server.call import TENSORS
from polyhead_server.codec.parse_limits import (
    MAX_QUESTION_BYTES,
    check_parse_limits,
    check_question_size,
)
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from polyhead.wire.protobuf import Payloads, Span

__all__ = [
    "ATTEND",
    "ATTEND_ROWS",
    "STREAMED",
    "STREAM_ID",
    "TIMEOUT_US",
    "MessageFormat",
    "StreamedFrame",
    "parse",
    "parse_and_reserialize",
    "parse_question",
    "read_frame",
]

_M = TypeVar("_M", bound=Message)

_MAX_REQUEST_ID_BYTES = 256


@dataclass(frozen=True, slots=True)
class MessageFormat:
    """The payloads of a message: which fields they are, and which of them is the request's id."""

    message_type: type[Message]
    payloads: Payloads
    num_payloads: int
    request_id: int
    """Index of the payload that is the request's id."""
    id_field: str
    """Path of the id's field, for error messages."""
    varints: tuple[int, ...] = ()
    """Indices of the payloads that are varints."""

    def extract(self, data: bytes, start: int, end: int) -> Extracted:
        """Split a message into payloads and skeleton. Raises UnsupportedWireFormat."""
        return extract_payloads(data, start, end, self.payloads, self.num_payloads)

    def read_request_id(self, data: bytes) -> str:
        """Read the payload that is a request's id. Raises InvalidRequestError."""
        if len(data) > _MAX_REQUEST_ID_BYTES:
            raise InvalidRequestError(
                self.id_field, f"expected at most {_MAX_REQUEST_ID_BYTES} bytes", "INVALID_VALUE"
            )
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise _malformed(self.message_type) from None

    def reserialize(self, data: bytes) -> bytes:
        """Write a message as protobuf does. Raises InvalidRequestError as parse does."""
        return parse_and_reserialize(self.message_type, data)


def _tensor_payloads() -> dict[int, int | Payloads]:
    """Return the payloads of an AttendRequest: each tensor's data, and request_id.

    The id is a payload, so that requests with different ids have one template.
    """
    fields = pb.AttendRequest.DESCRIPTOR.fields_by_name
    data = tag(pb.Tensor.DATA_FIELD_NUMBER)
    payloads: dict[int, int | Payloads] = {
        tag(fields[name].number): {data: index} for index, name in enumerate(TENSORS)
    }
    return payloads | {tag(fields["request_id"].number): _REQUEST_ID}


_REQUEST_ID = len(TENSORS)
STREAM_ID, TIMEOUT_US = _REQUEST_ID + 1, _REQUEST_ID + 2
"""Indices of the payloads of a streamed request besides those of its call."""
_CALL = tag(pb.StreamedRequest.CALL_FIELD_NUMBER)
_ID = tag(pb.StreamedRequest.ID_FIELD_NUMBER, VARINT)
_TIMEOUT_US = tag(pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER, VARINT)

ATTEND = MessageFormat(
    pb.AttendRequest, _tensor_payloads(), _REQUEST_ID + 1, _REQUEST_ID, "request_id"
)
ATTEND_ROWS = MessageFormat(
    pb.AttendRowsRequest,
    {tag(pb.AttendRowsRequest.CALL_FIELD_NUMBER): _tensor_payloads()},
    _REQUEST_ID + 1,
    _REQUEST_ID,
    "call.request_id",
)


class _StreamedFormat(MessageFormat):
    """The format of a stream's requests. Their errors are those of the same call in Attend."""

    def read_request_id(self, data: bytes) -> str:
        """Read the payload that is a request's id. Raises InvalidRequestError."""
        return ATTEND.read_request_id(data)

    def reserialize(self, data: bytes) -> bytes:
        """Write a message as protobuf does. Raises InvalidRequestError."""
        with suppress(UnsupportedWireFormat):
            ATTEND.reserialize(data[slice(*read_frame(data, 0, len(data)).call)])
        return super().reserialize(data)


STREAMED = _StreamedFormat(
    pb.AttendStreamRequest,
    {
        tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER): {
            _CALL: _tensor_payloads(),
            _ID: STREAM_ID,
            _TIMEOUT_US: TIMEOUT_US,
        }
    },
    TIMEOUT_US + 1,
    _REQUEST_ID,
    "request_id",
    varints=(STREAM_ID, TIMEOUT_US),
)
"""One request of a stream, as an AttendStreamRequest of its own. Several such messages, one after
the other, are one AttendStreamRequest with all requests."""


def parse(message_type: type[_M], data: bytes) -> _M:
    """Parse a message.

    Raises InvalidRequestError: MALFORMED if the bytes do not parse, TOO_MANY for too many fields or
    list entries.
    """
    check_parse_limits(message_type, data)
    try:
        return message_type.FromString(data)
    except DecodeError:
        raise _malformed(message_type) from None


def parse_question(message_type: type[_M], data: bytes, max_bytes: int = MAX_QUESTION_BYTES) -> _M:
    """Parse a message of a method that takes no arrays.

    Raises the errors of parse, and InvalidRequestError (TOO_LONG) for more than ``max_bytes``.
    """
    check_question_size(len(data), max_bytes)
    return parse(message_type, data)


def parse_and_reserialize(message_type: type[Message], data: bytes) -> bytes:
    """Write a message as protobuf does. Raises InvalidRequestError as parse does."""
    check_parse_limits(message_type, data)
    try:
        return reserialize(message_type, data)
    except DecodeError:
        raise _malformed(message_type) from None


class StreamedFrame(NamedTuple):
    """A request of a stream, without its call."""

    id: bytes
    """The request's id in the stream, as a varint."""
    timeout_us: int
    call: Span
    """The call's span in the bytes of the message; ABSENT without a call."""


def read_frame(data: bytes, start: int, end: int) -> StreamedFrame:
    """Read a request of a stream, the field in ``data[start:end]``, without its call.

    Raises UnsupportedWireFormat.
    """
    [(_, body_start, body_end)] = iter_fields(data, start, end)
    number = timeout_us = 0
    call = ABSENT
    for field, value_start, value_end in iter_fields(data, body_start, body_end):
        if field == _ID:
            number, _ = read_varint(data, value_start)
        elif field == _TIMEOUT_US:
            timeout_us, _ = read_varint(data, value_start)
        elif field == _CALL:
            if call != ABSENT:
                raise UnsupportedWireFormat  # protobuf merges the two
            call = value_start, value_end
    return StreamedFrame(varint(number), timeout_us, call)


def _malformed(message_type: type[Message]) -> InvalidRequestError:
    name = message_type.DESCRIPTOR.full_name
    return InvalidRequestError(
        "request",
        f"expected a serialized {name}, whose strings are UTF-8; the bytes are not one",
        "MALFORMED",
    )
