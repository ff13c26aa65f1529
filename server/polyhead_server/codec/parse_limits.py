"""Limits of a message besides its arrays, checked before protobuf parses it.

Protobuf takes 2.4 GB and 8 s to parse 120 MB of small integers, in a field that would be refused
for its length afterwards. The server could not answer other calls in this time.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, cast

from google.protobuf.descriptor import FieldDescriptor

from polyhead.wire.protobuf import DELIMITED, UnsupportedWireFormat, iter_fields
from polyhead_server.errors import InvalidRequestError, LimitExceededError

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

__all__ = [
    "MAX_QUESTION_BYTES",
    "check_parse_limits",
    "check_question_size",
    "check_request_size",
    "too_many_fields",
]

MAX_QUESTION_BYTES = 64 << 10
"""Longest message of a method that takes no arrays, only names. gRPC lets in 256 MiB, which no
reservation counts: some methods copy it into their answer, and a watch keeps it until it ends."""

_UNCHECKED_BYTES = 2 << 10
"""Smaller messages are not checked, because parsing them takes no time that matters."""
_MIN_FIELDS, _MAX_FIELDS = 1 << 11, 1 << 13
_BYTES_OF_FIELD = 32
"""A message may have one field per so many bytes, at least 2048 and at most 8192. Counting them
takes 2 to 8 ms, and the server's work on fields is in proportion."""
_MAX_LIST_BYTES = 2 << 20
"""Most bytes of all lists of a message together: the lengths of a million sequences."""
_FREE_LIST_BYTES, _BYTES_OF_LIST_BYTE = 64 << 10, 4
"""A message may have so many bytes of lists, or else one for so many of its bytes: a sequence whose
length is in a list, or a row whose index is, is longer itself. The event loop takes 0.1 s for each
megabyte of a list."""
_CONTENTS_ARE_LISTS = "inference"
"""Package of messages whose arrays may be lists."""
_TEXTS = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


def check_request_size(size: int, limit: int) -> None:
    """Raise LimitExceededError for a request of more bytes than --max-request-bytes allows."""
    if size > limit:
        raise LimitExceededError(
            "max_request_bytes",
            f"the request is {size} bytes, over this server's {limit}; "
            "send a smaller batch or a smaller dtype, or raise its --max-request-bytes",
            "REQUEST_TOO_LARGE",
            expected=limit,
            got=size,
        )


def check_question_size(size: int, limit: int) -> None:
    """Raise InvalidRequestError for a message without arrays of more than ``limit`` bytes."""
    if size > limit:
        raise InvalidRequestError(
            "request",
            f"expected at most {limit} bytes, because this method takes no arrays; got {size}",
            "TOO_LONG",
            expected=limit,
            got=size,
        )


def check_parse_limits(message_type: type[Message], data: bytes) -> None:
    """Raise InvalidRequestError (TOO_MANY) for a message with very many fields, or long lists.

    Protobuf checks afterwards whether the bytes are such a message.
    """
    if len(data) > _UNCHECKED_BYTES:
        max_fields = min(max(_MIN_FIELDS, len(data) // _BYTES_OF_FIELD), _MAX_FIELDS)
        with suppress(UnsupportedWireFormat):
            descriptor = cast("Descriptor", message_type.DESCRIPTOR)
            max_list_bytes = _MAX_LIST_BYTES
            if descriptor.file.package != _CONTENTS_ARE_LISTS:
                in_proportion = max(_FREE_LIST_BYTES, len(data) // _BYTES_OF_LIST_BYTE)
                max_list_bytes = min(max_list_bytes, in_proportion)
            _Counter(data, max_fields, max_list_bytes).count(descriptor, 0, len(data), "")


def too_many_fields(limit: int) -> InvalidRequestError:
    """Make the error for a message with more than ``limit`` fields."""
    return InvalidRequestError(
        "request",
        f"expected at most {limit} fields in a message of this size, where each text is one; send "
        "the rest in further requests",
        "TOO_MANY",
    )


class _Counter:
    """Counts the fields and the bytes of lists in a message and its nested messages."""

    def __init__(self, data: bytes, max_fields: int, max_list_bytes: int) -> None:
        self._data = data
        self._max_fields = max_fields
        self._max_list_bytes = max_list_bytes
        self._num_fields = 0
        self._num_list_bytes = 0

    def count(self, message: Descriptor, start: int, end: int, path: str) -> None:
        """Count the message in ``data[start:end]``. An unknown field counts as one field."""
        fields = iter_fields(self._data, start, end, enter_groups=True)
        for tag, value_start, value_end in fields:
            self._num_fields += 1
            if self._num_fields > self._max_fields:
                raise too_many_fields(self._max_fields)
            field = message.fields_by_number.get(tag >> 3)
            if field is None or tag & 7 != DELIMITED:
                continue
            name = path + field.name
            if field.message_type is not None:
                self.count(field.message_type, value_start, value_end, f"{name}.")
            elif field.type not in _TEXTS:
                self._count_packed(value_end - value_start, name)

    def _count_packed(self, num_bytes: int, path: str) -> None:
        self._num_list_bytes += num_bytes
        if self._num_list_bytes > self._max_list_bytes:
            problem = f"expected at most {self._max_list_bytes} bytes of numbers"
            if self._max_list_bytes < _MAX_LIST_BYTES:
                problem += " in lists of a message of this size"
            raise InvalidRequestError(path, problem, "TOO_MANY")
