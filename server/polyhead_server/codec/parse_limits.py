"""How much a message may hold beside its numbers, looked at before protobuf parses it.

Of 120 MB of small integers, in a field that is refused for its length afterwards, protobuf makes
2.4 GB in 8 s, and nothing else happens meanwhile.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, cast

from google.protobuf.descriptor import FieldDescriptor

from polyhead.wire.protobuf import MAX_FIELDS
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

__all__ = ["check_bounds"]

_UNCHECKED_BYTES = 64 << 10
"""Smaller messages are parsed in no time."""
_MAX_LIST_BYTES = 2 << 20
"""Of all lists of a message together: the lengths of a million sequences."""
_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
_TEXTS = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)


def check_bounds(message_type: type[Message], data: bytes) -> None:
    """Raise InvalidRequestError (TOO_MANY) for a message of very many fields, or of long lists.

    Whether it is one at all is for protobuf to say.
    """
    if len(data) > _UNCHECKED_BYTES:
        with suppress(IndexError):  # truncated
            message = cast("Descriptor", message_type.DESCRIPTOR)
            _Walk(data).through(message, 0, len(data), "")


class _Walk:
    """Goes through a message, and counts."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._num_fields = 0
        self._list_bytes = 0

    def through(self, message: Descriptor, position: int, end: int, path: str) -> None:
        """Go through the fields of a message; what it does not know is skipped."""
        while position < end:
            self._num_fields += 1
            if self._num_fields > MAX_FIELDS:
                raise InvalidRequestError(
                    "request", f"expected at most {MAX_FIELDS} fields in a message", "TOO_MANY"
                )
            tag, position = self._varint(position)
            kind = tag & 7
            if kind == _VARINT:
                _, position = self._varint(position)
            elif kind in _FIXED:
                position += _FIXED[kind]
            elif kind == _DELIMITED:
                size, position = self._varint(position)
                field = message.fields_by_number.get(tag >> 3)
                if field is not None:
                    self._into(field, position, min(position + size, end), path + field.name)
                position += size

    def _into(self, field: FieldDescriptor, start: int, end: int, path: str) -> None:
        if field.message_type is not None:
            self.through(field.message_type, start, end, f"{path}.")
        elif field.type not in _TEXTS:  # numbers, packed
            self._list_bytes += end - start
            if self._list_bytes > _MAX_LIST_BYTES:
                raise InvalidRequestError(
                    path, f"expected at most {_MAX_LIST_BYTES} bytes of numbers", "TOO_MANY"
                )

    def _varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            digit = self._data[position]
            position += 1
            value |= (digit & 0x7F) << shift
            if digit < 0x80:
                return value, position
            shift += 7
