"""Print a heat map of coloured cells with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from polyhead._viz.colours import COLOURS, colour_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["print_heat_map"]

_MAX_ROWS = 48
_MAX_LABEL_WIDTH = 14
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
    value_width = max(len(f"{number:.2f}") for number in colour_range(weights))
    cell_width = _widest_that_fits(columns, value_width, room)
    columns = columns[: max(1, room // cell_width)]
    shown = weights[: len(rows), : len(columns)]
    low, high = colour_range(shown)

    if title:
        console.print(Text(title, style="bold"))
    for line in _headings(columns, cell_width):
        _print_unwrapped(console, _indented(line, margin))
    for label, row in zip(rows, shown, strict=True):
        # Pad on the left by cells, not characters: a CJK character takes two.
        line = Text(" " * (margin - 1 - cell_len(label)) + label + " ")
        most = np.nanmax(row, initial=low)
        for value in row:
            if np.isnan(value):
                line.append(" " * cell_width)
                continue
            style = _style((value - low) / (high - low), bold=value == most > low)
            line.append(f"{value:.2f}".center(cell_width), style)
        _print_unwrapped(console, line)
    _print_unwrapped(console, _indented(_legend(low, high, console), margin))
    if shown.shape != weights.shape:
        console.print(_crop_note(shown.shape, weights.shape))


def _print_unwrapped(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="crop")


def _label(text: str, console: Console) -> str:
    """Turn a token into one short printable word that the terminal's encoding can show."""
    text = "".join(c if c.isprintable() else " " for c in text).strip() or repr(text)
    if cell_len(text) > _MAX_LABEL_WIDTH:
        text = set_cell_size(text, _MAX_LABEL_WIDTH - 1).rstrip() + "…"
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _widest_that_fits(labels: Sequence[str], value_width: int, room: int) -> int:
    """Return the labels' width if such cells fit the terminal, else the numbers' width."""
    labelled = max(value_width, *map(cell_len, labels))
    widths = (labelled + 2, labelled + 1, value_width + 2)
    return next((w for w in widths if w * len(labels) <= room), value_width + 1)


def _headings(labels: Sequence[str], cell_width: int) -> list[Text]:
    """Write column labels side by side if they fit their cells, else letter below letter."""
    if max(map(cell_len, labels)) < cell_width:
        return [Text("".join(_centred(label, cell_width) for label in labels))]
    height = max(map(len, labels))
    lines = zip(*(label.rjust(height) for label in labels), strict=True)
    return [Text("".join(_centred(letter, cell_width) for letter in line)) for line in lines]


def _centred(text: str, width: int) -> str:
    return set_cell_size(" " * ((width - cell_len(text)) // 2) + text, width)


def _style(share: float, *, bold: bool = False) -> Style:
    """Colour a cell by its position in the range, 0 to 1, and keep its number readable."""
    position = np.clip(np.nan_to_num(share), 0, 1) * (len(_RAMP) - 1)
    red, green, blue = (int(np.interp(position, range(len(_RAMP)), channel)) for channel in _RAMP.T)
    is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 125
    front = "#000000" if is_light else "#f0f0f0"
    return Style.parse(f"{front} on #{red:02x}{green:02x}{blue:02x}") + Style(bold=bold)


def _legend(low: float, high: float, console: Console) -> Text:
    legend = Text("rows attend to columns", style="dim")
    if console.color_system:
        legend.append(f"   {low:.2f} " if low else "   0 ")
        for step in range(_LEGEND_WIDTH):
            legend.append(" ", _style(step / (_LEGEND_WIDTH - 1)))
        legend.append(f" {high:.2f}")
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
