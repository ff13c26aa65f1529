"""The template cache: messages derived from a known one, each read by templates and by protobuf.

An input is a program: each of its steps changes a message a little, or goes back to the known one,
and after each step the message is read. What the cache knows by then comes from all steps before.
"""

from __future__ import annotations

from decoding import Decoder
from tests.fuzz import readings
from tests.fuzz.steps import Steps

from polyhead.wire.protobuf import header, varint

__all__ = ["check", "seeds"]

_MAX_STEPS = 48


def check(data):
    steps, decoder = Steps(data), Decoder()
    known = _KNOWN[steps.next() % len(_KNOWN)]
    message = known
    for _ in range(_MAX_STEPS):
        readings.assert_equal(
            readings.outcome(_read, decoder, message), readings.expected_of(message)
        )
        if steps.is_done:
            return
        message = _changed(message, known, steps)


def seeds():
    return [
        bytes([0]),
        bytes([1, 0, 40, 7, 0, 41, 9, 1, 12, 2, 5, 5]),
        bytes([0, 4, 3, 97, 98, 99, 4, 3, 120, 121, 122, 5, 7]),
        bytes([2, 3, 10, 4, 6, 5, 3, 7, 7, 8, 1, 2]),
        bytes([1, 6, 5, 6, 5, 0, 60, 1, 5, 0, 61, 1]),
        bytes([3, 8, 0, 8, 1, 8, 2, 5, 9, 30, 9, 31]),
    ]


def _read(decoder, message):
    return readings.reading_of(decoder.attend(message))


def _changed(message, known, steps):
    kind = steps.next() % 10
    if kind == 5:
        return known
    at = (steps.next() << 8 | steps.next() if len(message) > 255 else steps.next()) % (
        len(message) + 1
    )
    match kind:
        case 0:  # another byte
            return message[:at] + bytes([steps.next()]) + message[at + 1 :]
        case 1:  # fewer bytes
            return message[:at] + message[at + 1 + steps.next() % 8 :]
        case 2:  # more bytes
            return message[:at] + steps.take(1 + steps.next() % 8) + message[at:]
        case 3:  # bytes twice
            end = at + 1 + steps.next() % 16
            return message[:end] + message[at:end] + message[end:]
        case 4:  # a field at the end, which replaces or extends the one before
            content = steps.take(at % 8)
            return message + header(1 + steps.next() % 15, len(content)) + content
        case 6:  # a whole message after the other, which protobuf merges
            return (message + known)[:4096]
        case 7:  # elements of other values
            return message.replace(known[-8:], bytes([steps.next()]) * 8)
        case 8:  # a field that only a newer contract has
            return message + varint((1000 + at) << 3) + varint(steps.next() << 7)
        case _:  # a number written longer than it need be
            number = message[at : at + 1] or b"\0"
            padded = bytes([number[0] | 0x80]) + b"\x80" * (steps.next() % 5) + b"\0"
            return message[:at] + padded + message[at + 1 :]


_KNOWN = [
    readings.plain_request(request_id="abc").SerializeToString(),
    readings.full_request().SerializeToString(),
    readings.full_request(model_version=300, omit_output=True).SerializeToString(),
    readings.plain_request(kv_lengths=[1]).SerializeToString(),
]
