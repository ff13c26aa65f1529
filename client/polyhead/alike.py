"""Messages that follow each other and differ in a few places only, as the rows of one array.

What comes in crowds is mostly alike: requests of one form, and the replies to them. NumPy compares
and reads a hundred of them in the time that Python takes for two or three.

Client and server share this module; it knows bytes, and no message of polyhead's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Rows", "Span", "alike", "beside", "numbered"]

Rows: TypeAlias = "NDArray[np.uint8]"
"""(count, size): a message in each row."""
Span: TypeAlias = "tuple[int, int]"
"""Where something begins and ends in a row."""
_FEWEST, _MOST = 4, 64
"""Messages that are looked at together. Fewer gain nothing, and more would often be looked at in
vain."""
_MAX_VARINT_BYTES = 9
"""Of a number below 2^63."""
_DIGIT_VALUES = np.int64(128) ** np.arange(_MAX_VARINT_BYTES)


def alike(rows: Rows, varying: Iterable[Span]) -> Rows:
    """Give the rows up to the first that differs from the first one, but for spans, in order."""
    begin = 0
    for first, last in (*varying, (rows.shape[1], 0)):
        if first > begin:
            rows = rows[: _num_equal(rows[:, begin:first], rows[0, begin:first].tobytes())]
        begin = last
    return rows


def numbered(
    data: bytes, begin: int, end: int, number: Span, body: Span
) -> tuple[list[int], Rows] | None:
    """Find the messages after the one in ``data[begin:end]`` that are like it, but for two spans.

    These are the number of each, a varint, and whatever its body is; (0, 0) if it has none. Gives
    the numbers of all, and the messages. None: there are none, or very few.
    """
    if not (number[1] and body[1]):
        return None
    size = end - begin
    (until, after), (before, _) = varying = sorted((number, body))
    head, middle = data[begin : begin + until], data[begin + after : begin + before]
    # a glance at the next few, as what is not alike, or hardly, is not worth NumPy's time
    for at in range(end, end + (_FEWEST - 1) * size, size):
        if data[at : at + until] != head or data[at + after : at + before] != middle:
            return None
    rows = alike(_rows_from(data, begin, size), varying)
    numbers = _varints(rows[:, slice(*number)])
    return (numbers, rows[: len(numbers)]) if len(numbers) > 1 else None


def beside(count: int, columns: Iterable[bytes | memoryview]) -> bytes:
    """Write ``count`` messages, of columns side by side.

    A column is what they all have there, as bytes, or else what each has, one after the other.
    """
    cells = [_cells(count, column) for column in columns]
    return b"".join([cell for row in zip(*cells, strict=True) for cell in row])


def _cells(count: int, column: bytes | memoryview) -> Sequence[bytes | memoryview]:
    if isinstance(column, bytes):
        return [column] * count
    data = column.cast("B")
    size = len(data) // count
    return [data[at : at + size] for at in range(0, len(data), size)]


def _rows_from(data: bytes, start: int, size: int) -> Rows:
    """View what begins at ``data[start]`` as messages of ``size`` bytes each; not too many."""
    count = min((len(data) - start) // size, _MOST)
    return np.frombuffer(data, np.uint8, count * size, start).reshape(count, size)


def _varints(digits: Rows) -> list[int]:
    """Read the numbers that fill the rows, up to one that does not; not those of 2^63 and more."""
    size = digits.shape[1]
    if size > _MAX_VARINT_BYTES:
        return []
    count = _num_equal(digits & np.uint8(0x80), b"\x80" * (size - 1) + b"\0")
    numbers: list[int] = (digits[:count] & 0x7F).dot(_DIGIT_VALUES[:size]).tolist()
    return numbers


def _num_equal(cells: Rows, expected: bytes) -> int:
    """Count how many are as expected before the first that is not."""
    count = len(cells)
    if cells.tobytes() == expected * count:  # a fifth of the time of what finds the first
        return count
    return int((cells == np.frombuffer(expected, np.uint8)).all(axis=1).argmin())
