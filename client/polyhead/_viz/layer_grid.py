"""Draw small heat maps of many layers and heads in one picture, without labels of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from polyhead._viz.colours import colour_range
from polyhead._viz.png import COLOUR_MAP, GREY, MAX_SIDE_INCHES, HeatMaps, add_colour_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["draw_layer_grid"]

_PANEL_INCHES = 1.1
_GAP = 0.06  # between panels, of a panel's width


def draw_layer_grid(rows: Mapping[str, Mapping[str, NDArray[np.float64]]], *, label: str) -> Figure:
    """Draw heat maps by their row's and their column's title; see viz.draw_layer_grid."""
    columns = list(dict.fromkeys(title for maps in rows.values() for title in maps))
    inches = min(_PANEL_INCHES, MAX_SIDE_INCHES / max(len(columns), len(rows)))
    figure = HeatMaps(
        figsize=(inches * len(columns) + 2.4, inches * len(rows) + 0.8),
        dpi=150,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    # One pair of axes for all panels, because each pair takes 10 ms, and there are hundreds.
    axes = figure.add_subplot()
    ranges = [colour_range(weights) for maps in rows.values() for weights in maps.values()]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    for row, maps in enumerate(rows.values()):
        for title, weights in maps.items():
            column = columns.index(title)
            image = axes.imshow(
                np.ma.masked_invalid(weights),
                cmap=COLOUR_MAP,
                vmin=low,
                vmax=high,
                extent=(column + _GAP, column + 1 - _GAP, row + 1 - _GAP, row + _GAP),
                aspect="auto",
            )
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    axes.set_xticks(
        [n + 0.5 for n in range(len(columns))], columns, rotation=90, fontsize=8, parse_math=False
    )
    axes.set_yticks([n + 0.5 for n in range(len(rows))], list(rows), fontsize=8, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.supxlabel("in each map: keys from left to right", fontsize=9, color=GREY)
    figure.supylabel("queries from top to bottom", fontsize=9, color=GREY)
    add_colour_bar(figure, image, axes, label)
    return figure
