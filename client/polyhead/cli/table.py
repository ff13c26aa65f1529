"""Tables as text for standard output: as wide as they are, or folded to fit a terminal."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["as_table"]

_GAP = 2
_MIN_FOLDED = 20
"""Width of a folded column, at least: less would be one word a line."""


def as_table(
    rows: Sequence[Sequence[str]],
    align: Callable[[str, int], str] = str.ljust,
    *,
    folded: Sequence[int] = (),
) -> str:
    """Format rows of equal length, headings first, with aligned columns.

    In a terminal the headings stand out if rich is installed, and columns are folded. Elsewhere, as
    in a pipe, each row is one line, for other programs to read.

    ``align``: pads the cells of all columns but the first to a width, by str.ljust or str.rjust.
    ``folded``: the columns whose cells may take several lines; without rich the last one does.
    """
    if not sys.stdout.isatty():
        return _plain(rows, align)
    columns = shutil.get_terminal_size().columns
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    fits = sum(widths) + _GAP * (len(widths) - 1) <= columns
    if find_spec("rich") and (fits or folded):
        return _styled(rows, folded, columns, is_right=align is str.rjust)
    if fits or not folded:
        return _plain(rows, align)
    room = columns - sum(widths[:-1]) - _GAP * (len(widths) - 1)
    return _plain(_fold_last(rows, max(room, _MIN_FOLDED)), align)


def _plain(rows: Sequence[Sequence[str]], align: Callable[[str, int], str]) -> str:
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gap = " " * _GAP
    lines = (gap.join([name.ljust(first), *map(align, cells, others)]) for name, *cells in rows)
    return "\n".join(line.rstrip() for line in lines)


def _fold_last(rows: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Put texts that are too long for the last column into rows of their own."""
    folded = []
    for *cells, last in rows:
        first, *others = wrap(last, width) or [""]
        folded.append([*cells, first])
        folded += [[*[""] * len(cells), line] for line in others]
    return folded


def _styled(
    rows: Sequence[Sequence[str]], folded: Sequence[int], width: int, *, is_right: bool
) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    headings, *others = rows
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(
            Text(heading),
            justify="right" if is_right and number else "left",
            no_wrap=number not in folded,
            overflow="fold",
        )
    for row in others:
        table.add_row(*map(Text, row))
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
