"""Tables as text for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["as_table"]


def as_table(rows: Sequence[Sequence[str]], align: Callable[[str, int], str] = str.ljust) -> str:
    """Format rows of equal length, headings first, with aligned columns.

    ``align``: pads the cells of all columns but the first to a width.
    """
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([name.ljust(first), *map(align, cells, others)]) for name, *cells in rows)
    return "\n".join(line.rstrip() for line in lines)
