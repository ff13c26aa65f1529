"""Messages written as no serialiser writes them, and as every parser must read them.

And what protobuf reads in the fields that are payloads, to compare with what is read by hand.
"""

from __future__ import annotations

import struct

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

from polyhead.wire.protobuf import read_varint

VARINT, FIXED64, DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)
_TEXTS = (Field.TYPE_STRING, Field.TYPE_BYTES)


def varint(value, padding=0):
    """A number, as many bytes longer than it need be."""
    value %= 1 << 64
    digits = []
    while value >= 0x80 or padding:
        if value < 0x80:
            padding -= 1
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def payloads_of(message, payloads):
    """Copy a message; return the copy without its payloads, and the payloads by their indices.

    ``payloads`` is as extract_payloads takes it; of its repeated messages there is one at most.
    """
    rest, values = type(message)(), {}
    rest.CopyFrom(message)
    rest.DiscardUnknownFields()
    _take_payloads(rest, payloads, values)
    return rest, values


def _take_payloads(message, payloads, values):
    fields = message.DESCRIPTOR.fields_by_number
    for tag, index in payloads.items():
        field = fields[tag >> 3]
        value = getattr(message, field.name)
        if isinstance(index, dict):
            for nested in [value] if not field.is_repeated else value:
                if field.is_repeated or message.HasField(field.name):
                    _take_payloads(nested, index, values)
        elif not isinstance(value, Message):
            values[index] = value
            message.ClearField(field.name)
        elif message.HasField(field.name):
            values[index] = type(value).FromString(value.SerializeToString())
            message.ClearField(field.name)


def is_payload(data, value):
    """Whether a payload's bytes are the value that protobuf reads; None: it is absent."""
    match value:
        case None:
            return data == b""
        case int():
            return (read_varint(data) if data else (0, 0)) == (value % 2**64, len(data))
        case str():
            return data == value.encode()
        case bytes():
            return data == value
    read = type(value).FromString(data)
    read.DiscardUnknownFields()
    return read == value


class Scribe:
    """Writes messages in one of their many forms; a random.Random chooses."""

    def __init__(self, rng):
        self._rng = rng

    def write(self, message):
        """Write a message: what the stubs read is equal to it, but for unknown fields."""
        return b"".join(self._pieces(message))

    def _pieces(self, message):
        """A message's fields, in any order; of one field, in their own."""
        rng = self._rng
        queues = [self._field(field, value) for field, value in message.ListFields()]
        queues += [[self._unknown()] for _ in range(rng.choice([0, 0, 1, 2]))]
        pieces = []
        while queues := [queue for queue in queues if queue]:
            pieces.append(rng.choice(queues).pop(0))
        return pieces

    def _field(self, field, value):
        if field.type == Field.TYPE_MESSAGE:
            values = value if field.is_repeated else [value]
            return [piece for each in values for piece in self._message(field, each)]
        if field.is_repeated:
            return self._numbers(field.number, list(value))
        pieces = [self._scalar(field, value)]
        if self._rng.random() < 0.2:  # the last one counts
            decoy = {Field.TYPE_STRING: "decoy", Field.TYPE_BYTES: b"decoy"}.get(field.type, 1)
            pieces.insert(0, self._scalar(field, decoy))
        return pieces

    def _message(self, field, value):
        pieces = self._pieces(value)
        cut = len(pieces)
        if not field.is_repeated and field.containing_oneof is None:
            cut = self._rng.choice([cut, cut, self._rng.randint(0, cut)])
        halves = [pieces[:cut]] + [pieces[cut:]] * (cut < len(pieces))
        return [self._delimited(field.number, b"".join(half)) for half in halves]

    def _numbers(self, number, values):
        """Packed, one by one, or both."""
        pieces = []
        while values:
            count = self._rng.randint(1, len(values))
            some, values = values[:count], values[count:]
            if self._rng.random() < 0.5:
                content = b"".join(self._varint(value) for value in some)
                pieces.append(self._delimited(number, content))
            else:
                pieces += [self._tag(number, VARINT) + self._varint(value) for value in some]
        return pieces

    def _scalar(self, field, value):
        if field.type in _TEXTS:
            content = value.encode() if isinstance(value, str) else value
            return self._delimited(field.number, content)
        if field.type == Field.TYPE_DOUBLE:
            return self._tag(field.number, FIXED64) + struct.pack("<d", value)
        return self._tag(field.number, VARINT) + self._varint(int(value))

    def _unknown(self):
        """A field that only a newer contract has."""
        rng = self._rng
        number = rng.choice([1_000, 1_001, 2_000, 1 << 20])
        match rng.choice([VARINT, FIXED64, DELIMITED, START_GROUP, FIXED32]):
            case 0:  # VARINT
                return self._tag(number, VARINT) + self._varint(rng.getrandbits(64))
            case 1:  # FIXED64
                return self._tag(number, FIXED64) + rng.randbytes(8)
            case 2:  # DELIMITED
                return self._delimited(number, rng.randbytes(rng.randint(0, 5)))
            case 3:  # START_GROUP
                within = self._tag(1, VARINT) + self._varint(7)
                return self._tag(number, START_GROUP) + within + self._tag(number, END_GROUP)
            case _:
                return self._tag(number, FIXED32) + rng.randbytes(4)

    def _delimited(self, number, content):
        padding = self._rng.choice([0, 0, 0, 1, 2])
        return self._tag(number, DELIMITED) + varint(len(content), padding) + content

    def _tag(self, number, kind):
        return varint(number << 3 | kind, self._rng.choice([0] * 9 + [1]))

    def _varint(self, value):
        digits = varint(value)
        return varint(value, self._rng.choice([0, 0, 0, 1]) if len(digits) < 10 else 0)
