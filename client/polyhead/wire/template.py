"""Messages that differ in their payloads only.

A message is a template, constant bytes, with payloads between them: tensors' elements, ids. What
was found out about a template is kept with it, so that the next message of the same template is
neither parsed nor checked again: that takes 75 us for a small request, recognising it 2. Several
messages of one template, one after the other, are a group; a single message is a group of one.

Client and server share this module; it knows bytes, and no message of polyhead's.
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
"""What messages have in one place: the same bytes in all, or a view of what each has, one after the
other, or a list of it."""

_MAX_CONSTANT_BYTES = 4096
"""Templates with more constant bytes, such as long lists of indices, are not kept."""
_MAX_LAYOUTS = 8
"""Most layouts of one size that a message is compared with."""
_TEMPLATE_BYTES = 4 << 10
"""Estimate of the memory that a template takes besides its constant bytes."""
_CONTINUES = bytes((2, *(byte >> 7 for byte in range(1, 256))))
"""For each byte of a varint: 1 if another follows, 0 if it is the last. 2 for the byte 0, because
protobuf never writes it at the end of a varint but for the number 0 itself."""
_CONTINUES_TO_TEN = bytes((2, 0, *(2 - (byte >> 7) for byte in range(2, 256))))
"""The same for a varint of ten bytes: the last one is 1, because more would exceed 64 bits."""


class MessageTemplate(Generic[T]):
    """The constant bytes of messages of one layout, and what was found out about them."""

    __slots__ = ("constants", "layout", "nbytes", "value")

    def __init__(self, layout: _Layout[T], constants: tuple[bytes, ...], value: T) -> None:
        self.layout = layout
        self.constants = constants
        self.value = value
        self.nbytes = sum(map(len, constants)) + _TEMPLATE_BYTES
        """Estimate of the memory that it takes."""


class Match(Generic[T]):
    """A group: ``count`` messages of one template, one after the other from ``data[start]`` on."""

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
        """Return where a payload of the first message lies in ``data``, or ABSENT."""
        first, last = self.template.layout.spans[index]
        return (self.start + first, self.start + last) if last else ABSENT

    def offset(self, index: int) -> int:
        """Return where a payload of the first message, which must be there, begins in ``data``."""
        return self.start + self.template.layout.spans[index][0]

    def payload(self, index: int) -> bytes:
        """Return a payload of the first message; empty if it is absent."""
        first, last = self.template.layout.spans[index]
        return self.data[self.start + first : self.start + last] if last else b""

    def column(self, index: int) -> list[bytes]:
        """Return a payload of every message; empty ones if it is absent."""
        span = self.template.layout.spans[index]
        if span == ABSENT:
            return [b""] * self.count
        return list(chain.from_iterable(self._records(_struct_of(self.size, span))))

    def part(self, first: int, count: int) -> Match[T]:
        """Return the group of ``count`` of these messages, from the one at ``first`` on."""
        return Match(self.template, self.data, self.start + first * self.size, count)

    def detached(self) -> Match[T]:
        """Return the same group with a copy of its own bytes alone."""
        data = self.data[self.start : self.start + self.count * self.size]
        return Match(self.template, data, 0, self.count)

    def extended(self, max_count: int) -> Match[T]:
        """Return the group of this message and those of its template that follow it in ``data``.

        It has at most ``max_count`` messages.
        """
        count = min((len(self.data) - self.start) // self.size, max_count)
        return self if count < 2 else self.part(0, self.part(0, count)._num_equal())  # noqa: SLF001 - its own class

    def _num_equal(self) -> int:
        """Count the leading messages that are of the template."""
        layout, constants = self.template.layout, self.template.constants
        records, count = list(self._records(layout.constants_struct)), self.count
        if records.count(constants) < count:  # takes a fifth of the time of what finds the other
            count = next(n for n, record in enumerate(records) if record != constants)
        for index, (table, marks) in layout.varint_marks.items():
            written = b"".join(self.part(0, count).column(index)).translate(table)
            if written != marks * count:
                count = next(
                    n for n in range(count) if not written.startswith(marks, n * len(marks))
                )
        return count

    def _records(self, struct: Struct) -> Iterator[tuple[bytes, ...]]:
        end = self.start + self.count * self.size
        return struct.iter_unpack(memoryview(self.data)[self.start : end])


class TemplateCache(Generic[T]):
    """Templates with what was found out about them. May be used by several threads.

    It holds about ``max_bytes`` of memory, by estimate. What was used least recently is dropped
    first.
    """

    def __init__(
        self, max_bytes: int = 16 << 20, bytes_of: Callable[[T], int] = lambda _: 0
    ) -> None:
        """``bytes_of``: estimates the memory that a value takes."""
        self._max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._nbytes = 0
        self._layouts: dict[int, list[_Layout[T]]] = {}
        """Layouts by the size of their messages."""
        self._by_use: OrderedDict[MessageTemplate[T], None] = OrderedDict()
        """All templates; the last one was used last."""
        self._changing = Lock()

    def __len__(self) -> int:
        return len(self._by_use)

    def match(self, data: bytes, start: int = 0, end: int | None = None) -> Match[T] | None:
        """Recognise the message in ``data[start:end]``; None if its template is not known."""
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
        """Remember the template of the message in ``data[start:end]``, and return it as a match.

        ``spans``: where the payloads lie in ``data``; all else is constant. ``varints``: indices of
        payloads that are varints, as protobuf writes them. Templates of many constant bytes are not
        remembered.
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
        """Forget all templates."""
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
            by_use = list(self._by_use)  # a copy, because other threads change the order meanwhile
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
    """Where the payloads of messages of one size lie, and the templates of that layout.

    Two layouts are equal if their payloads lie in the same places.
    """

    def __init__(self, size: int, spans: Sequence[Span], varints: Iterable[int]) -> None:
        self.size = size
        self.spans = spans
        present = tuple(span for span in spans if span != ABSENT)
        self.constants_struct = _struct_outside(size, present or (ABSENT,))
        """Unpacks what lies outside the payloads."""
        self.varint_marks = {
            index: _marks(spans[index][1] - spans[index][0])
            for index in varints
            if spans[index] != ABSENT
        }
        """For each varint payload a table, and what it makes of the payload's bytes."""
        self.templates: dict[tuple[bytes, ...], MessageTemplate[T]] = {}
        """Templates by their constant bytes."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Layout):
            return NotImplemented
        return (self.size, self.spans) == (other.size, other.spans)

    __hash__ = None  # type: ignore[assignment] # it grows

    def has_valid_varints(self, data: bytes, start: int) -> bool:
        """Whether each varint of a message is one, and as long as in other messages."""
        for index, (table, marks) in self.varint_marks.items():
            first, last = self.spans[index]
            if data[start + first : start + last].translate(table) != marks:
                return False
        return True


def _marks(num_bytes: int) -> tuple[bytes, bytes]:
    """Return the table for varints of so many bytes, and what it makes of each of them."""
    table = _CONTINUES_TO_TEN if num_bytes == 10 else _CONTINUES
    return table, b"\1" * (num_bytes - 1) + b"\0"


def interleave(count: int, columns: Iterable[Column]) -> bytes:
    """Write ``count`` messages whose parts are given as columns, side by side."""
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


@lru_cache(maxsize=1024)  # making one takes longer than unpacking with it
def _struct_of(size: int, *spans: Span) -> Struct:
    """Make the struct that unpacks these spans, in ascending order, of a message."""
    pattern, at = "", 0
    for first, last in spans:
        pattern += f"{first - at}x{last - first}s"
        at = last
    return Struct(f"{pattern}{size - at}x")


def _struct_outside(size: int, spans: tuple[Span, ...]) -> Struct:
    """Make the struct that unpacks all that lies outside these spans, in any order."""
    firsts, lasts = zip(*sorted(spans), strict=True)
    return _struct_of(size, *zip((0, *lasts), (*firsts, size), strict=True))
