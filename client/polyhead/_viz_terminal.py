"""A heat map of coloured cells with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from polyhead._viz_colours import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["print_heat_map"]

_MAX_ROWS = 48
_MAX_LABEL_WIDTH = 14
_VALUE_WIDTH = 4  # 0.42
_LEGEND_WIDTH = 24
_RAMP = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS], dtype=float)


def print_heat_map(
    weights: NDArray[np.float64],
    queries: Sequence[str],
    keys: Sequence[str],
    title: str,
    console: Console,
) -> None:
    """Print (len(queries), len(keys)) weights; see viz.print_heat_map."""
    rows = [_label(query, console) for query in queries[:_MAX_ROWS]]
    margin = max(map(cell_len, rows)) + 1
    columns = [_label(key, console) for key in keys]
    room = console.width - margin
    cell_width = _widest_that_fits(columns, room)
    columns = columns[: max(1, room // cell_width)]
    shown = weights[: len(rows), : len(columns)]

    if title:
        console.print(Text(title, style="bold"))
    for line in _headings(columns, cell_width):
        _print_unwrapped(console, _indented(line, margin))
    scale = float(np.nanmax(shown, initial=0.0)) or 1.0
    for label, row in zip(rows, shown, strict=True):
        # Pad on the left by cells, not characters: a CJK character takes two.
        line = Text(" " * (margin - 1 - cell_len(label)) + label + " ")
        for value in row:
            is_most = value > 0 and value == np.nanmax(row)
            line.append(f"{value:.2f}".center(cell_width), _style(value / scale, bold=is_most))
        _print_unwrapped(console, line)
    _print_unwrapped(console, _indented(_legend(scale, console), margin))
    if shown.shape != weights.shape:
        console.print(_crop_note(shown.shape, weights.shape))


def _print_unwrapped(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="crop")


def _label(text: str, console: Console) -> str:
    """Make any token one short printable word that the terminal's encoding can show."""
    text = "".join(c if c.isprintable() else " " for c in text).strip() or repr(text)
    if cell_len(text) > _MAX_LABEL_WIDTH:
        text = set_cell_size(text, _MAX_LABEL_WIDTH - 1).rstrip() + "…"
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _widest_that_fits(labels: Sequence[str], room: int) -> int:
    """Cells as wide as their labels where that fits; else as wide as their numbers."""
    labelled = max(_VALUE_WIDTH, *map(cell_len, labels))
    widths = (labelled + 2, labelled + 1, _VALUE_WIDTH + 2)
    return next((w for w in widths if w * len(labels) <= room), _VALUE_WIDTH + 1)


def _headings(labels: Sequence[str], cell_width: int) -> list[Text]:
    """Column labels: side by side where they fit their cells, else letter below letter."""
    if max(map(cell_len, labels)) < cell_width:
        return [Text("".join(_centred(label, cell_width) for label in labels))]
    height = max(map(len, labels))
    lines = zip(*(label.rjust(height) for label in labels), strict=True)
    return [Text("".join(_centred(letter, cell_width) for letter in line)) for line in lines]


def _centred(text: str, width: int) -> str:
    return set_cell_size(" " * ((width - cell_len(text)) // 2) + text, width)


def _style(share: float, *, bold: bool = False) -> Style:
    """Colour a cell by its share, 0 to 1, of the largest weight; keep its number readable."""
    position = np.clip(np.nan_to_num(share), 0, 1) * (len(_RAMP) - 1)
    red, green, blue = (int(np.interp(position, range(len(_RAMP)), channel)) for channel in _RAMP.T)
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 125
    front = "#000000" if is_light else "#f0f0f0"
    return Style.parse(f"{front} on #{red:02x}{green:02x}{blue:02x}") + Style(bold=bold)


def _legend(scale: float, console: Console) -> Text:
    legend = Text("rows attend to columns", style="dim")
    if console.color_system:
        legend.append("   0 ")
        for step in range(_LEGEND_WIDTH):
            legend.append(" ", _style(step / (_LEGEND_WIDTH - 1)))
        legend.append(f" {scale:.2f}")
    return legend


def _crop_note(shown: tuple[int, ...], full: tuple[int, ...]) -> Text:
    parts = [
        f"{part} of {whole} {name}"
        for part, whole, name in zip(shown, full, ("queries", "keys"), strict=True)
        if part < whole
    ]
    return Text(f"cropped to the first {', '.join(parts)}", style="dim italic")


def _indented(text: Text, margin: int) -> Text:
    return Text(" " * margin).append_text(text)
