"""Protobuf's wire format by hand, as far as that saves copies of large ``bytes`` fields.

They are read where they lie, and written straight from their arrays. What is on the wire is
ordinary protobuf.

Protobuf's own parser copies a message's bytes into its own memory, and copies them again whenever
the field is read; its serialiser copies each level of nesting. Here the large fields, the payloads,
are taken out of a message first. What is left, its skeleton, is small, goes through protobuf's own
parser, and is the same for all requests of one shape: a key to remember what was found in it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from polyhead.wire.template import struct_beside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from struct import Struct

    from google.protobuf.message import Message

__all__ = [
    "MAX_FIELDS",
    "Fields",
    "Lifter",
    "Payloads",
    "Skeleton",
    "UnusualError",
    "canonical",
    "fields",
    "header",
    "lift",
    "tag",
    "varint",
]

_MAX_LENGTHS, _PATTERNS_OF_A_LENGTH, _MAX_PATTERN_BYTES = 1024, 4, 4096
_BYTES = [bytes((value,)) for value in range(256)]
_VARINT, _DELIMITED = 0, 2
_FIXED = {1: 8, 5: 4}
"""Sizes of fields of the kinds that have one size only."""

MAX_FIELDS = 1 << 16
"""Messages of more are for protobuf's own parser: 8 MB of tiny fields took 8 s here."""

Payloads: TypeAlias = "Mapping[int, int | tuple[int, ...] | Payloads]"
"""Which fields to take out of a message: tag -> the payload's index, or, in a nested message, its
own. Of a repeated field, the index of the first, the second, and so on. Tags as `tag` makes them;
numbers up to 15 only."""

Fields: TypeAlias = "list[tuple[int, int, int]]"
"""Tag, and where the field's value begins and ends; of a varint: the value itself, and the end."""


class UnusualError(ValueError):
    """Bytes that protobuf would perhaps read, and that this module does not."""


class Skeleton(NamedTuple):
    """A message without its payloads."""

    data: bytes
    """The message that is left."""
    spans: list[tuple[int, int]]
    """Where each payload begins and ends in the message that it was taken from; (0, 0): absent."""


def tag(number: int) -> int:
    """Make the tag of a length-delimited field: bytes, a string, a message, packed numbers."""
    return number << 3 | _DELIMITED


def varint(value: int) -> bytes:
    """Write a number of 0 or more."""
    if value < 0x80:
        return _BYTES[value]
    return _BYTES[value & 0x7F | 0x80] + varint(value >> 7)


@lru_cache(maxsize=4096)
def header(number: int, size: int) -> bytes:
    """Write what stands before the ``size`` bytes of a length-delimited field."""
    return _BYTES[tag(number)] + varint(size)


def fields(data: bytes, start: int, end: int, most: int = -1) -> Fields:
    """Find the fields of the message that lies in ``data[start:end]``; the first ``most``, or all.

    Raises UnusualError for whatever is not plain: truncated, of very many fields, or with groups or
    numbers above 15.
    """
    found: Fields = []
    position = start
    try:
        while position < end and len(found) != most:
            tag = data[position]
            kind = tag & 7
            value = data[position + 1]
            position += 2
            if value >= 0x80 and kind in (_VARINT, _DELIMITED):
                second = data[position]
                if second < 0x80:
                    value += (second << 7) - 0x80
                    position += 1
                else:
                    value, position = _long_varint(data, position - 1)
            if tag >= 0x80 or tag < 8 or len(found) == MAX_FIELDS:
                raise UnusualError
            if kind == _DELIMITED:
                found.append((tag, position, position + value))
                position += value
            elif kind == _VARINT:
                found.append((tag, value, position))
            elif kind in _FIXED:
                begin, position = position - 1, position - 1 + _FIXED[kind]
                found.append((tag, begin, position))
            else:
                raise UnusualError
    except IndexError:
        raise UnusualError from None
    if position > end:
        raise UnusualError
    return found


def lift(data: bytes, start: int, end: int, payloads: Payloads, count: int) -> Skeleton:
    """Take the payloads, ``count`` in number, out of the message in ``data[start:end]``.

    Raises UnusualError as fields does, and for a payload that comes twice.
    """
    spans = [(0, 0)] * count
    return Skeleton(_left(data, start, end, payloads, spans), spans)


class Lifter:
    """Takes payloads out of messages, and recognises those that are like one before.

    Two messages of one length that agree in every byte outside the payloads of one of them have
    their payloads in the same places. To compare takes 1 us, to find the fields of a request 7.
    May be used by several threads.
    """

    def __init__(self, payloads: Payloads, count: int) -> None:
        self._payloads = payloads
        self._count = count
        self._patterns: dict[int, list[_Pattern]] = {}
        """By the messages' lengths."""

    def lift(self, data: bytes, start: int, end: int) -> Skeleton:
        """Do as the function `lift` does."""
        for pattern in self._patterns.get(end - start, ()):
            if pattern.constants.unpack_from(data, start) == pattern.kept:
                spans = [(0, 0)] * self._count
                for index, first, last in pattern.payloads:
                    spans[index] = start + first, start + last
                return Skeleton(pattern.skeleton, spans)
        skeleton = lift(data, start, end, self._payloads, self._count)
        if len(skeleton.data) <= _MAX_PATTERN_BYTES:
            self._remember(_Pattern.of(data, start, end, skeleton), end - start)
        return skeleton

    def _remember(self, pattern: _Pattern, length: int) -> None:
        if len(self._patterns) >= _MAX_LENGTHS:
            self._patterns = {}  # and soon holds again what is needed
        self._patterns[length] = [pattern, *self._patterns.get(length, ())][:_PATTERNS_OF_A_LENGTH]


class _Pattern(NamedTuple):
    """What messages that are alike have in common. Places count from the messages' beginnings."""

    constants: Struct
    """Takes what is outside the payloads."""
    kept: tuple[bytes, ...]
    """What that is."""
    payloads: list[tuple[int, int, int]]
    """Index of a payload that is there, and where it begins and ends."""
    skeleton: bytes

    @classmethod
    def of(cls, data: bytes, start: int, end: int, skeleton: Skeleton) -> _Pattern:
        payloads = [
            (index, first - start, last - start)
            for index, (first, last) in enumerate(skeleton.spans)
            if last
        ]
        spans = tuple([(first, last) for _, first, last in payloads]) or ((0, 0),)
        constants = struct_beside(end - start, spans)
        return cls(constants, constants.unpack_from(data, start), payloads, skeleton.data)


def canonical(message_type: type[Message], data: bytes) -> bytes:
    """Let protobuf write anew what it reads: without unknown fields, and nothing is unusual.

    Raises protobuf's DecodeError for bytes that are no such message.
    """
    message = message_type.FromString(data)
    message.DiscardUnknownFields()
    return message.SerializeToString()


def _left(
    data: bytes, start: int, end: int, payloads: Payloads, spans: list[tuple[int, int]]
) -> bytes:
    """Give what is left of a message, and note where its payloads lie."""
    parts = []
    position = kept_from = start
    for field, value, value_end in fields(data, start, end):
        place = payloads.get(field)
        if place is not None:
            if position > kept_from:
                parts.append(data[kept_from:position])
            if isinstance(place, tuple):
                place = next((index for index in place if spans[index] == (0, 0)), None)
                if place is None:
                    raise UnusualError
            if isinstance(place, int):
                if spans[place] != (0, 0):
                    raise UnusualError  # of a message that comes twice protobuf joins both
                spans[place] = value, value_end
            else:
                left = _left(data, value, value_end, place, spans)
                parts += (_BYTES[field], varint(len(left)), left)
            kept_from = value_end
        position = value_end
    if position > kept_from:
        parts.append(data[kept_from:position])
    return b"".join(parts)


def _long_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a number of several bytes: the number, and where it ends."""
    value = shift = 0
    while True:
        digit = data[position]
        position += 1
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            if value >> 64:
                raise UnusualError
            return value, position
        shift += 7
        if shift > 63:
            raise UnusualError
