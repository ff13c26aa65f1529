"""Print a heat map of coloured cells with rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from polyhead._viz.colours import is_light, rgb
from polyhead._viz.overview import overview

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from polyhead._viz.scale import Scale

__all__ = ["print_heat_map"]

_MAX_ROWS = 48
_MAX_LABEL_WIDTH = 14
_LEGEND_WIDTH = 24


class _Places(NamedTuple):
    """The queries and keys that are shown of a map, in their order."""

    queries: NDArray[np.intp]
    keys: NDArray[np.intp]


def print_heat_map(
    weights: NDArray[np.float64],
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str,
    console: Console,
    scale: Scale,
) -> None:
    """Print (len(queries), len(keys)) weights; see viz.print_heat_map."""
    rows = [_label(query, console) for query in queries]
    columns = [_label(key, console) for key in keys]
    value_width = max(len(f"{number:.2f}") for number in (*_ends(weights), 0.0))
    places, margin, cell_width = _places(weights, rows, columns, value_width, console.width)
    cropped = weights[np.ix_(*places)]
    is_cropped = cropped.shape != weights.shape

    if title:
        console.print(Text(title, style="bold"))
    if is_cropped:
        for line in overview(weights, scale, console):
            console.print(line)
    for line in _headings([columns[key] for key in places.keys], cell_width):
        _print_unwrapped(console, _indented(line, margin))
    styles = _styles(scale.shares(cropped), is_diverging=scale.is_diverging)
    for query, numbers, row_styles in zip(places.queries, cropped, styles, strict=True):
        # Pad on the left by cells, not characters: a CJK character takes two.
        label = rows[query]
        line = Text(" " * (margin - 1 - cell_len(label)) + label + " ")
        most = np.nanmax(numbers, initial=-np.inf)
        for value, colour in zip(numbers, row_styles, strict=True):
            if np.isnan(value):
                line.append(" " * cell_width)
                continue
            is_largest = value == most and most != 0
            style = colour + Style(bold=is_largest) if np.isfinite(value) else Style(dim=True)
            line.append(f"{value:.2f}".center(cell_width), style)
        _print_unwrapped(console, line)
    for line in _legend(scale, console, console.width - margin):
        console.print(_indented(line, margin))
    if is_cropped:
        console.print(_crop_note(cropped.shape, weights.shape))


def _ends(weights: NDArray[np.float64]) -> tuple[float, float]:
    finite = weights[np.isfinite(weights)]
    return float(finite.min(initial=0.0)), float(finite.max(initial=0.0))


def _print_unwrapped(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="crop")


def _label(text: str, console: Console) -> str:
    """Turn a token into one short printable word that the terminal's encoding can show."""
    text = "".join(c if c.isprintable() else " " for c in text).strip() or repr(text)
    if cell_len(text) > _MAX_LABEL_WIDTH:
        text = set_cell_size(text, _MAX_LABEL_WIDTH - 1).rstrip() + "…"
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _places(
    weights: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    value_width: int,
    width: int,
) -> tuple[_Places, int, int]:
    """Return which queries and keys fit, the width of the queries' labels, and that of a cell.

    The keys are those with the largest weights, and so are the queries, among these keys, because
    a row whose large weights are all of other keys would show zeros.
    """
    margin = max(map(cell_len, rows)) + 1
    room = width - margin
    cell_width = _widest_that_fits(columns, value_width, room)
    keys = _largest(_most(weights, axis=0), max(1, room // cell_width))
    queries = _largest(_most(weights[:, keys], axis=1), _MAX_ROWS)
    return _Places(queries, keys), margin, cell_width


def _most(weights: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    largest: NDArray[np.float64] = weights.max(axis=axis, initial=-np.inf, where=~np.isnan(weights))
    return largest


def _largest(numbers: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Return the places of the largest numbers, in their order; of equal ones, the first."""
    return np.sort(np.argsort(-numbers, kind="stable")[:count])


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


def _styles(shares: NDArray[np.float64], *, is_diverging: bool) -> list[list[Style]]:
    """Colour cells by their share of the colours, and keep their numbers readable."""
    backgrounds = rgb(np.nan_to_num(shares), is_diverging=is_diverging)
    return [
        [_style(*colour, has_dark_text=light) for colour, light in zip(row, lights, strict=True)]
        for row, lights in zip(backgrounds.tolist(), is_light(backgrounds).tolist(), strict=True)
    ]


def _style(red: int, green: int, blue: int, *, has_dark_text: bool) -> Style:
    front = "#000000" if has_dark_text else "#f0f0f0"
    return Style.parse(f"{front} on #{red:02x}{green:02x}{blue:02x}")


def _legend(scale: Scale, console: Console, width: int) -> list[Text]:
    """Say what rows, columns and colours are: in one line, or in two if one is too long."""
    legend = Text("rows attend to columns", style="dim")
    if not console.color_system:
        return [legend]
    legend.append(f"   {scale.low:.2f} " if scale.low else "   0 ")
    shares = np.linspace(0, 1, _LEGEND_WIDTH)[None]
    for style in _styles(shares, is_diverging=scale.is_diverging)[0]:
        legend.append(" ", style)
    legend.append(f" {scale.high:.2f}")
    description = scale.describe()
    if legend.cell_len + 2 + len(description) > width:
        return [legend, Text(description, style="dim")]
    return [legend.append(f"  {description}") if description else legend]


def _crop_note(cropped: tuple[int, ...], full: tuple[int, ...]) -> Text:
    parts = [
        f"{part} of {whole} {name}"
        for part, whole, name in zip(cropped, full, ("queries", "keys"), strict=True)
        if part < whole
    ]
    text = f"shown with numbers: {' and '.join(parts)}, those with the largest weights"
    return Text(text, style="dim italic")


def _indented(text: Text, margin: int) -> Text:
    return Text(" " * margin).append_text(text)
