"""Messages that follow each other and differ in a few places only, as records of one form.

What comes in crowds is mostly alike: requests of one form, and the replies to them. The struct
module compares one of them with the first, or takes a piece out of it, in a tenth of the time that
it takes to find a message's fields in Python.

Client and server share this module; it knows bytes, and no message of polyhead's.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain, repeat
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Column", "Records", "Span", "beside", "numbered", "struct_beside"]

Span: TypeAlias = "tuple[int, int]"
"""Where something begins and ends in a record; (0, 0): it is not there."""
Column: TypeAlias = "bytes | memoryview | Sequence[bytes]"
"""What records have in one place: all the same, or what each has, one after the other or listed."""
_MOST = 64
"""Messages that are looked at together."""
_MAX_VARINT_BYTES = 9
"""Of a number below 2^63."""
_GOES_ON = bytes((2, *(byte >> 7 for byte in range(1, 256))))
"""Whether a byte of a varint has a further one after it; 2: it has none, and is no proper last."""


class Records(NamedTuple):
    """Pieces of one size that lie one after the other in some bytes."""

    data: bytes
    begin: int
    """Where the first one begins."""
    size: int
    """Of each."""
    num_records: int

    def part(self, first: int, count: int) -> Records:
        """Give those from one on, so many at most."""
        if first == 0 and count >= self.num_records:
            return self
        begin = self.begin + first * self.size
        return Records(self.data, begin, self.size, min(self.num_records - first, count))

    def like_first(self, varying: tuple[Span, ...]) -> Records:
        """Give them up to the one that differs from the first elsewhere than in these spans."""
        rows = self._rows(struct_beside(self.size, varying))
        first = next(rows)
        if next(rows, None) != first:
            return self.part(0, 1)
        others = list(rows)
        if others.count(first) == len(others):  # a fifth of the time of what finds the other one
            return self
        return self.part(0, 2 + next(n for n, row in enumerate(others) if row != first))

    def column(self, span: Span) -> list[bytes]:
        """Give what each has in a span."""
        return list(chain.from_iterable(self._rows(_struct_of(self.size, span))))

    def _rows(self, struct: Struct) -> Iterator[tuple[bytes, ...]]:
        end = self.begin + self.num_records * self.size
        return struct.iter_unpack(memoryview(self.data)[self.begin : end])


def numbered(
    data: bytes, begin: int, end: int, number: Span, body: Span
) -> tuple[list[bytes], Records] | None:
    """Find the messages after the one in ``data[begin:end]`` that are like it, but for two spans.

    These are the number of each, a varint, and whatever its body is; (0, 0) if it has none. Gives
    the numbers of all, as they are written, and the messages. None: there are none.
    """
    size = end - begin
    count = min((len(data) - begin) // size, _MOST)
    if count < 2 or not (number[1] and body[1]):
        return None
    records = Records(data, begin, size, count).like_first((number, body))
    numbers = _varints(records.column(number))
    return (numbers, records.part(0, len(numbers))) if len(numbers) > 1 else None


def beside(count: int, columns: Iterable[Column]) -> bytes:
    """Write ``count`` messages, of columns side by side."""
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


@lru_cache(maxsize=1024)  # to make one takes longer than to read a record with it
def _struct_of(size: int, *spans: Span) -> Struct:
    """Make what takes spans, in their order, out of a record."""
    pattern, at = "", 0
    for begin, end in spans:
        pattern += f"{begin - at}x{end - begin}s"
        at = end
    return Struct(f"{pattern}{size - at}x")


@lru_cache(maxsize=1024)
def struct_beside(size: int, spans: tuple[Span, ...]) -> Struct:
    """Make what takes everything out of a record but spans, which are in any order."""
    begins, ends = zip(*sorted(spans), strict=True)
    return _struct_of(size, *zip((0, *ends), (*begins, size), strict=True))


def _varints(written: list[bytes]) -> list[bytes]:
    """Give them up to one that is no varint as protobuf writes it; none of 2^63 and more."""
    size = len(written[0])
    if size > _MAX_VARINT_BYTES:
        return []
    count, one = len(written), b"\1" * (size - 1) + b"\0"
    marks = b"".join(written).translate(_GOES_ON)
    if marks != one * count:
        count = next(n for n in range(count) if marks[n * size : (n + 1) * size] != one)
    return written[:count]
