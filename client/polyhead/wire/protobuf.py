"""Read and write protobuf's wire format without copies of large ``bytes`` fields.

Protobuf's own parser copies a message's bytes into its own memory, and again whenever a field is
read. Its serialiser copies the bytes for each level of nesting. This module reads the large fields,
the payloads, in place. The rest of the message, the skeleton, is small, and is parsed by protobuf.
The bytes on the wire are ordinary protobuf.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

__all__ = [
    "ABSENT",
    "DELIMITED",
    "MAX_FIELDS",
    "MAX_MESSAGE_BYTES",
    "VARINT",
    "Extracted",
    "Payloads",
    "Span",
    "UnsupportedWireFormat",
    "canonical_varint",
    "extract_payloads",
    "header",
    "iter_fields",
    "read_varint",
    "reserialize",
    "tag",
    "varint",
]

VARINT, DELIMITED = 0, 2
"""Wire types: a number; bytes that follow their size."""
_GROUP_START, _GROUP_END = 3, 4
_FIXED_SIZES = {1: 8, 5: 4}
_HEAD_BITS = 32
"""Most bits of a tag or a size in protobuf."""
_BYTES = [bytes((value,)) for value in range(256)]

MAX_MESSAGE_BYTES = 2**31 - 1
"""Size limit of a protobuf message; the smaller limits are the server's."""
MAX_FIELDS = 1 << 10
"""Messages with more fields are not split here, because each field takes a microsecond."""

Span: TypeAlias = "tuple[int, int]"
"""Start and end of a part of some bytes."""
ABSENT: Span = 0, 0
"""The span of a payload that a message does not have."""
Payloads: TypeAlias = "Mapping[int, int | tuple[int, ...] | Payloads]"
"""Which fields are payloads: tag -> the payload's index; for a nested message, its own Payloads;
for a repeated field, the indices of its first, second and further values."""


class UnsupportedWireFormat(ValueError):  # noqa: N818 - protobuf may well read it
    """Bytes that this module cannot read. Protobuf may be able to read them."""


class Extracted(NamedTuple):
    """A message, split into payloads and skeleton."""

    skeleton: bytes
    """The message without its payloads."""
    spans: list[Span]
    """The span of each payload in the bytes of the whole message, or ABSENT."""


def tag(number: int, wire_type: int = DELIMITED) -> int:
    """Make a field's tag. Bytes, strings, messages and packed numbers are DELIMITED."""
    return number << 3 | wire_type


def varint(value: int) -> bytes:
    """Write a number of 0 or more as a varint."""
    if value < 0x80:
        return _BYTES[value]
    return _BYTES[value & 0x7F | 0x80] + varint(value >> 7)


def read_varint(data: bytes, position: int = 0, max_bits: int = 64) -> tuple[int, int]:
    """Read a varint; return its value and its end.

    Raises UnsupportedWireFormat for more than ``max_bits``, and IndexError for truncated bytes.
    """
    value = shift = 0
    while True:
        digit = data[position]
        position += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            if value >> max_bits:
                raise UnsupportedWireFormat
            return value, position
        shift += 7
        if shift >= max_bits:
            raise UnsupportedWireFormat


def canonical_varint(data: bytes) -> bytes:
    """Return a varint in protobuf's shortest form; empty bytes are the number 0."""
    if data and data[-1]:  # the usual case: only a longer form ends with the byte 0
        return data
    return varint(read_varint(data)[0]) if data else _BYTES[0]


@lru_cache(maxsize=4096)
def header(number: int, size: int) -> bytes:
    """Write the tag and size of a length-delimited field of ``size`` bytes, number 1 to 15."""
    return _BYTES[tag(number)] + varint(size)


def iter_fields(
    data: bytes, start: int, end: int, *, enter_groups: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Yield each field of the message in ``data[start:end]``: its tag, and its value's span.

    ``enter_groups``: True yields the fields of groups, and the groups' start and end tags as fields
    without a value. False raises UnsupportedWireFormat for groups.
    Raises UnsupportedWireFormat for bytes that are truncated or are not a message.
    """
    position = start
    try:
        while position < end:
            field_tag, position = read_varint(data, position, _HEAD_BITS)
            wire_type, value_start = field_tag & 7, position
            if wire_type == DELIMITED:
                size, value_start = read_varint(data, position, _HEAD_BITS)
                position = value_start + size
            elif wire_type == VARINT:
                _, position = read_varint(data, position)
            elif wire_type in _FIXED_SIZES:
                position += _FIXED_SIZES[wire_type]
            elif not (enter_groups and wire_type in (_GROUP_START, _GROUP_END)):
                raise UnsupportedWireFormat
            if position > end or field_tag < 8:
                raise UnsupportedWireFormat
            yield field_tag, value_start, position
    except IndexError:
        raise UnsupportedWireFormat from None


def extract_payloads(
    data: bytes, start: int, end: int, payloads: Payloads, num_payloads: int
) -> Extracted:
    """Split the message in ``data[start:end]`` into its payloads and its skeleton.

    Raises UnsupportedWireFormat as iter_fields does, and for
    - more than MAX_FIELDS fields;
    - a payload, or a message with payloads, that occurs twice, because protobuf would replace or
      merge it;
    - a payload that is a varint longer than protobuf writes it.
    """
    spans = [ABSENT] * num_payloads
    return Extracted(_skeleton(data, start, end, payloads, spans), spans)


def reserialize(message_type: type[Message], data: bytes) -> bytes:
    """Parse a message with protobuf, and serialise it again without unknown fields.

    extract_payloads can read the result, unless a payload occurs too often. Raises protobuf's
    DecodeError.
    """
    message = message_type.FromString(data)
    message.DiscardUnknownFields()
    return message.SerializeToString()


def _skeleton(data: bytes, start: int, end: int, payloads: Payloads, spans: list[Span]) -> bytes:
    """Return a message's bytes without its payloads, and enter the payloads' spans in ``spans``."""
    parts = []
    nested_tags = set()
    field_start = copied_to = start
    for number, (field_tag, value_start, value_end) in enumerate(iter_fields(data, start, end)):
        if number == MAX_FIELDS:
            raise UnsupportedWireFormat
        payload = payloads.get(field_tag)
        if payload is not None:
            parts.append(data[copied_to:field_start])
            copied_to = value_end
            if isinstance(payload, tuple):
                payload = next((index for index in payload if spans[index] == ABSENT), -1)
            if isinstance(payload, int):
                is_padded = field_tag & 7 == VARINT and not data[value_end - 1]
                if payload < 0 or spans[payload] != ABSENT or is_padded:
                    raise UnsupportedWireFormat
                spans[payload] = value_start, value_end
            else:
                if field_tag in nested_tags:
                    raise UnsupportedWireFormat
                nested_tags.add(field_tag)
                nested = _skeleton(data, value_start, value_end, payload, spans)
                parts += (varint(field_tag), varint(len(nested)), nested)
        field_start = value_end
    parts.append(data[copied_to:field_start])
    return b"".join(parts)
