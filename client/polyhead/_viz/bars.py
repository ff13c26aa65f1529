"""Draw rows of weights as bars: the keys with the largest weights, largest first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyhead._viz.colours import COLOURS, DIVERGING_COLOURS
from polyhead._viz.figure import GREY, Heading, Picture, short_label, widest
from polyhead._viz.fonts import fonts_for
from polyhead._viz.sizes import MAX_BAR_CHARTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from polyhead._viz.figure import Captions

__all__ = ["draw_bars"]

_MAX_BARS = {1: 20, 6: 10, MAX_BAR_CHARTS: 6}
"""Bars of a row, by the number of rows."""
_BAR_PX, _BARS_WIDTH = 30, 420
_TITLE_PX, _GAP = 40, 20
_LABEL_SIZE = 8.0  # points
_NUMBER_PX = 70  # right of a bar
_MIN_WIDTH_PX = 760
_POSITIVE, _NEGATIVE = COLOURS[3], DIVERGING_COLOURS[-3]


def draw_bars(
    weights: NDArray[np.float64],
    queries: Sequence[str],
    keys: Sequence[str],
    titles: Sequence[str],
    captions: Captions,
    *,
    has_rest: bool,
    is_scale_shared: bool,
) -> Picture:
    """Draw each row of (num_heads, len(queries), len(keys)) weights; see viz.draw_bars.

    ``has_rest``: whether the sum of the keys without a bar is written below.
    """
    rows = weights.reshape(-1, weights.shape[2])
    names = [": ".join(filter(None, (title, _row(query)))) for title in titles for query in queries]
    count = next(bars for panels, bars in _MAX_BARS.items() if len(rows) <= panels)
    ranked = [_largest(row, count) for row in rows]
    most = max(1, *map(len, ranked)) + has_rest
    labels = [short_label(key) for key in keys]
    with fonts_for([*labels, *names, captions.title, captions.text]):
        left = math.ceil(widest((labels[key] for row in ranked for key in row), _LABEL_SIZE)) + 20
        columns = min(len(rows), 3) if len(rows) < 10 else 4
        num_lines = math.ceil(len(rows) / columns)
        heading = Heading(captions)
        step_x, step_y = left + _BARS_WIDTH + _NUMBER_PX + _GAP, most * _BAR_PX + _TITLE_PX + _GAP
        captions_top = heading.top + num_lines * step_y
        picture = Picture.of_size(
            max(columns * step_x, _MIN_WIDTH_PX), captions_top + 30 + heading.bottom
        )
        ends = [_end(row) for row in rows]
        for number, (row, places) in enumerate(zip(rows, ranked, strict=True)):
            line, column = divmod(number, columns)
            axes = picture.add_box(
                column * step_x + left + _GAP // 2,
                heading.top + line * step_y + _TITLE_PX,
                _BARS_WIDTH,
                most * _BAR_PX,
            )
            axes.set_title(names[number], fontsize=10, loc="left", parse_math=False)
            end = max(ends) if is_scale_shared else ends[number]
            _draw_row(axes, row, places, labels, end=end, most=most, has_rest=has_rest)
        label = f"{captions.label}: the largest of each row, largest first"
        picture.add_text(20, captions_top + 6, label, fontsize=8, color=GREY)
        heading.draw(picture)
    return picture


def _row(query: str) -> str:
    """Name a row; a number alone, of a token that is not known, would not say what it counts."""
    return f"query {query}" if query.isdecimal() else short_label(query)


def _largest(row: NDArray[np.float64], count: int) -> list[int]:
    """Return the places of the largest finite numbers, largest first."""
    finite = np.flatnonzero(np.isfinite(row))
    order = np.argsort(-row[finite], kind="stable")[:count]
    return [int(place) for place in finite[order]]


def _end(row: NDArray[np.float64]) -> float:
    return float(np.abs(row[np.isfinite(row)]).max(initial=0.0)) or 1.0


def _draw_row(
    axes: Axes,
    row: NDArray[np.float64],
    places: Sequence[int],
    labels: Sequence[str],
    *,
    end: float,
    most: int,
    has_rest: bool,
) -> None:
    values = [float(row[place]) for place in places]
    names = [labels[place] for place in places]
    colours = [_POSITIVE if value >= 0 else _NEGATIVE for value in values]
    start = -end if min(values, default=0) < 0 else 0.0
    axes.barh(range(len(values)), values, color=colours, height=0.8)
    axes.set_xlim(start, end)
    axes.set_ylim(most - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(values)), names, fontsize=_LABEL_SIZE, parse_math=False)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}" if abs(value) >= 0.01 or not value else f"{value:.1g}",
            (max(value, 0.0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=_LABEL_SIZE,
            color=GREY,
            annotation_clip=False,
        )
    others = int(np.isfinite(row).sum()) - len(places)
    if has_rest and others:
        rest = float(np.nansum(row)) - sum(values)
        text = f"{others} other keys: {rest:.2f} together"
        axes.text(start, len(values), text, va="center", fontsize=_LABEL_SIZE, color=GREY)
