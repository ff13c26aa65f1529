"""Messages of a few bytes that are made to cost a server as much as possible."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor as Field

_LABEL_SIZES = {Field.TYPE_DOUBLE: 8, Field.TYPE_FLOAT: 4, Field.TYPE_FIXED32: 4}
_LABEL_SIZES |= {Field.TYPE_FIXED64: 8, Field.TYPE_SFIXED32: 4, Field.TYPE_SFIXED64: 8}


def varint(value):
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def delimited(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def dear_messages(message_type, size):
    """Yield name and bytes of messages that are filled with one thing, as often as it fits.

    Fields of every kind: messages that are empty, strings that are empty, numbers one by one and
    packed, entries of maps; at every level of nesting.
    """
    yield "unknown numbers", b"\xf8\x3e\x01" * (size // 3)
    yield "unknown strings", b"\xfa\x3e\x00" * (size // 3)
    yield "groups", b"\xfb\x3e\xfc\x3e" * (size // 4)
    yield "nested groups", b"\xfb\x3e" * (size // 2)
    yield "zeros", bytes(size)
    yield from _of(message_type.DESCRIPTOR, size, "", lambda content: content, 4)


def _of(descriptor, size, path, wrap, depth):
    for field in descriptor.fields:
        name, number = path + field.name, field.number
        if field.type == Field.TYPE_MESSAGE:
            yield from _filled(name, delimited(number, b""), size, wrap)
            if depth:

                def inside(content, number=number):
                    return wrap(delimited(number, content))

                yield from _of(field.message_type, size, f"{name}.", inside, depth - 1)
        elif field.type in (Field.TYPE_STRING, Field.TYPE_BYTES):
            yield from _filled(name, delimited(number, b""), size, wrap)
            yield f"{name} once", wrap(delimited(number, b"x" * size))
            yield f"{name} no text", wrap(delimited(number, b"\xff" * size))
        else:
            width = _LABEL_SIZES.get(field.type)
            value = bytes(width) if width else b"\x01"
            kind = {8: 1, 4: 5}.get(width, 0)
            yield from _filled(name, varint(number << 3 | kind) + value, size, wrap)
            if field.is_repeated:
                yield f"{name} packed", wrap(delimited(number, value * (size // len(value))))


def _filled(name, part, size, wrap):
    yield name, wrap(part * (size // len(part)))
