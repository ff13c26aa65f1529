"""Recognise messages that differ in their payloads only.

A message consists of constant bytes, its template, and of payloads between them: tensors' elements
and ids. The result of parsing and checking a message is cached with its template. The next message
of this template is neither parsed nor checked: recognising a small request takes 2 us, parsing it
75 us. Several messages of one template, one after the other, are a group. A single message is a
group of one.

Client and server share this module. It works on bytes, and depends on no message type.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from itertools import chain, repeat
from struct import Struct
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from polyhead.wire.protobuf import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from polyhead.wire.protobuf import Span

__all__ = ["Column", "Match", "MessageTemplate", "TemplateCache", "interleave"]

T = TypeVar("T")

Column: TypeAlias = "bytes | memoryview | Sequence[bytes]"
"""The same part of several messages: bytes that all of them share, or a view of each message's
bytes, one after the other, or a list of each message's bytes."""

_MAX_CONSTANT_BYTES = 4096
"""Templates with more constant bytes, such as long lists of indices, are not cached."""
_MAX_LAYOUTS = 8
"""Most layouts of one size that a message is compared with."""
_TEMPLATE_BYTES = 4 << 10
"""Estimate of the memory that a template takes besides its constant bytes."""
_CONTINUES = bytes((2, *(byte >> 7 for byte in range(1, 256))))
"""Maps each byte of a varint to 1 if another byte follows, and to 0 if it is the last one. The byte
0 is mapped to 2, because protobuf never ends a varint with it, except the number 0 itself."""
_CONTINUES_TO_TEN = bytes((2, 0, *(2 - (byte >> 7) for byte in range(2, 256))))
"""The same map for varints of ten bytes. The last byte is 1, because more would exceed 64 bits."""


class MessageTemplate(Generic[T]):
    """The constant bytes of messages of one layout, and the value that is cached for them."""

    __slots__ = ("constants", "layout", "nbytes", "value")

    def __init__(self, layout: _Layout[T], constants: tuple[bytes, ...], value: T) -> None:
        self.layout = layout
        self.constants = constants
        self.value = value
        self.nbytes = sum(map(len, constants)) + _TEMPLATE_BYTES
        """Estimate of the template's memory."""


class Match(Generic[T]):
    """A group: ``count`` messages of one template, one after the other, from ``data[start]`` on."""

    __slots__ = ("count", "data", "start", "template", "value")

    def __init__(
        self, template: MessageTemplate[T], data: bytes, start: int, count: int = 1
    ) -> None:
        self.template = template
        self.value = template.value
        self.data = data
        self.start = start
        self.count = count

    @property
    def size(self) -> int:
        """Size of each message in bytes."""
        return self.template.layout.size

    def span(self, index: int) -> Span:
        """Return the span of the first message's payload in ``data``, or ABSENT."""
        first, last = self.template.layout.spans[index]
        return (self.start + first, self.start + last) if last else ABSENT

    def offset(self, index: int) -> int:
        """Return the start of the first message's payload in ``data``; it must not be absent."""
        return self.start + self.template.layout.spans[index][0]

    def payload(self, index: int) -> bytes:
        """Return the first message's payload; empty if it is absent."""
        first, last = self.template.layout.spans[index]
        return self.data[self.start + first : self.start + last] if last else b""

    def column(self, index: int) -> list[bytes]:
        """Return the payload of every message; empty if it is absent."""
        span = self.template.layout.spans[index]
        if span == ABSENT:
            return [b""] * self.count
        return list(chain.from_iterable(self._records(_struct_of(self.size, span))))

    def part(self, first: int, count: int) -> Match[T]:
        """Return ``count`` of these messages as a group, from message ``first`` on."""
        return Match(self.template, self.data, self.start + first * self.size, count)

    def detached(self) -> Match[T]:
        """Return the same group on a copy of its own bytes."""
        data = self.data[self.start : self.start + self.count * self.size]
        return Match(self.template, data, 0, self.count)

    def extended(self, max_count: int) -> Match[T]:
        """Return this message and the following ones of its template in ``data`` as a group.

        The group has at most ``max_count`` messages.
        """
        count = min((len(self.data) - self.start) // self.size, max_count)
        return self if count < 2 else self.part(0, self.part(0, count)._num_equal())  # noqa: SLF001 - its own class

    def _num_equal(self) -> int:
        """Count the leading messages that are of the template."""
        layout, constants = self.template.layout, self.template.constants
        records, count = list(self._records(layout.constants_struct)), self.count
        if records.count(constants) < count:  # count() takes a fifth of the time of the search
            count = next(n for n, record in enumerate(records) if record != constants)
        for index, (table, marks) in layout.varint_marks.items():
            all_marks = b"".join(self.part(0, count).column(index)).translate(table)
            if all_marks != marks * count:
                count = next(
                    n for n in range(count) if not all_marks.startswith(marks, n * len(marks))
                )
        return count

    def _records(self, struct: Struct) -> Iterator[tuple[bytes, ...]]:
        end = self.start + self.count * self.size
        return struct.iter_unpack(memoryview(self.data)[self.start : end])


class TemplateCache(Generic[T]):
    """A cache of values by template, least recently used first out. Threads may share it.

    It takes about ``max_bytes`` of memory, by estimate.
    """

    def __init__(
        self, max_bytes: int = 16 << 20, bytes_of: Callable[[T], int] = lambda _: 0
    ) -> None:
        """``bytes_of``: estimates the memory of a value."""
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._nbytes = 0
        self._layouts: dict[int, list[_Layout[T]]] = {}
        """Layouts by the size of their messages."""
        self._by_use: OrderedDict[MessageTemplate[T], None] = OrderedDict()
        """All templates, the least recently used one first."""
        self._changing = Lock()

    def __len__(self) -> int:
        return len(self._by_use)

    def match(self, data: bytes, start: int = 0, end: int | None = None) -> Match[T] | None:
        """Recognise the message in ``data[start:end]``; None if its template is not cached."""
        size = (len(data) if end is None else end) - start
        for layout in self._layouts.get(size, ()):
            template = layout.templates.get(layout.constants_struct.unpack_from(data, start))
            if template is not None and layout.has_valid_varints(data, start):
                try:
                    self._by_use.move_to_end(template)
                except KeyError:  # another thread has just dropped it
                    continue
                return Match(template, data, start)
        return None

    def add(
        self,
        data: bytes,
        start: int,
        end: int,
        spans: Sequence[Span],
        *,
        value: T,
        varints: Iterable[int] = (),
    ) -> Match[T]:
        """Cache the template of the message in ``data[start:end]``; return the message as a match.

        ``spans``: the payloads' spans in ``data``; all other bytes are constant. ``varints``:
        indices of payloads that are varints, as protobuf writes them. Templates of many constant
        bytes are not cached.
        """
        layout = _Layout[T](
            end - start,
            [(first - start, last - start) if last else ABSENT for first, last in spans],
            varints,
        )
        template = MessageTemplate(layout, layout.constants_struct.unpack_from(data, start), value)
        if template.nbytes <= _MAX_CONSTANT_BYTES + _TEMPLATE_BYTES:
            template.nbytes += self._bytes_of(value)
            with self._changing:
                self._remember(template)
        return Match(template, data, start)

    def clear(self) -> None:
        """Drop all templates."""
        with self._changing:
            self._layouts, self._by_use, self._nbytes = {}, OrderedDict(), 0

    def _remember(self, template: MessageTemplate[T]) -> None:
        layouts = self._layouts.setdefault(template.layout.size, [])
        if template.layout in layouts:
            template.layout = layouts[layouts.index(template.layout)]
        else:
            layouts.append(template.layout)
        layout = template.layout
        old = layout.templates.get(template.constants)
        layout.templates[template.constants] = template
        self._by_use[template] = None
        self._nbytes += template.nbytes
        if old is not None:
            del self._by_use[old]
            self._nbytes -= old.nbytes
        while self._nbytes > self._max_bytes:
            self._drop(self._by_use.popitem(last=False)[0])
        if len(layouts) > _MAX_LAYOUTS:
            by_use = list(self._by_use)  # a copy, because other threads may change the order
            for old in [each for each in by_use if each.layout.size == layout.size]:
                self._drop(old)
                if len(layouts) <= _MAX_LAYOUTS:
                    break

    def _drop(self, template: MessageTemplate[T]) -> None:
        layout = template.layout
        self._by_use.pop(template, None)
        del layout.templates[template.constants]
        self._nbytes -= template.nbytes
        if not layout.templates:
            self._layouts[layout.size].remove(layout)
            if not self._layouts[layout.size]:
                del self._layouts[layout.size]


class _Layout(Generic[T]):
    """The payloads' spans in messages of one size, and the templates of this layout.

    Two layouts are equal if their sizes and spans are equal.
    """

    def __init__(self, size: int, spans: Sequence[Span], varints: Iterable[int]) -> None:
        self.size = size
        self.spans = spans
        present = tuple(span for span in spans if span != ABSENT)
        self.constants_struct = _struct_outside(size, present or (ABSENT,))
        """Unpacks the bytes outside the payloads."""
        self.varint_marks = {
            index: _marks(spans[index][1] - spans[index][0])
            for index in varints
            if spans[index] != ABSENT
        }
        """For each varint payload a table, and the bytes that it translates the payload to."""
        self.templates: dict[tuple[bytes, ...], MessageTemplate[T]] = {}
        """Templates by their constant bytes."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Layout):
            return NotImplemented
        return (self.size, self.spans) == (other.size, other.spans)

    __hash__ = None  # type: ignore[assignment] # a layout is mutable

    def has_valid_varints(self, data: bytes, start: int) -> bool:
        """Whether each varint payload is one varint, as long as in this layout's messages."""
        for index, (table, marks) in self.varint_marks.items():
            first, last = self.spans[index]
            if data[start + first : start + last].translate(table) != marks:
                return False
        return True


def _marks(num_bytes: int) -> tuple[bytes, bytes]:
    """Return the table for varints of so many bytes, and the bytes that it translates them to."""
    table = _CONTINUES_TO_TEN if num_bytes == 10 else _CONTINUES
    return table, b"\1" * (num_bytes - 1) + b"\0"


def interleave(count: int, columns: Iterable[Column]) -> bytes:
    """Write ``count`` messages; each column has one part of all of them."""
    cells = [_cells(count, column) for column in columns]
    return b"".join(chain.from_iterable(zip(*cells, strict=True)))


def _cells(count: int, column: Column) -> Iterable[bytes | memoryview]:
    if isinstance(column, bytes):
        return repeat(column, count)
    if isinstance(column, memoryview):
        data = column.cast("B")
        size = len(data) // count
        return [data[at : at + size] for at in range(0, len(data), size)]
    return column


@lru_cache(maxsize=1024)  # making a struct takes longer than unpacking with it
def _struct_of(size: int, *spans: Span) -> Struct:
    """Make the struct that unpacks these spans of a message, which are in ascending order."""
    pattern, at = "", 0
    for first, last in spans:
        pattern += f"{first - at}x{last - first}s"
        at = last
    return Struct(f"{pattern}{size - at}x")


def _struct_outside(size: int, spans: tuple[Span, ...]) -> Struct:
    """Make the struct that unpacks all bytes outside these spans, which are in any order."""
    firsts, lasts = zip(*sorted(spans), strict=True)
    return _struct_of(size, *zip((0, *lasts), (*firsts, size), strict=True))
