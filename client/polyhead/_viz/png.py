"""Draw a grid of heat maps with matplotlib, without pyplot and its global state."""

from __future__ import annotations

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from polyhead._viz.colours import COLOURS, colour_range

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from typing import IO

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

__all__ = ["add_colour_bar", "draw_heat_maps", "save"]

_CELL_INCHES = 0.38
_MIN_PANEL_INCHES, _MAX_PANEL_INCHES = 2.4, 9.0
MAX_SIDE_INCHES = 48.0  # of the whole picture, at 150 pixels per inch
_TICK_INCHES = 0.15  # height or width that one label needs
_MAX_NUMBERED_LENGTH = 16  # longest sequence whose cells hold numbers
_MAX_NUMBERED_CELLS = (
    600  # cells of one picture, above which no cell holds a number: each takes milliseconds
)
_MAX_LABEL = 18
GREY = "0.35"
COLOUR_MAP = LinearSegmentedColormap.from_list("polyhead", COLOURS)


class HeatMaps(Figure):
    """A figure that notebooks show even if matplotlib's pyplot is not set up in them."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        save(self, buffer)
        return buffer.getvalue()


def save(figure: Figure, file: str | PathLike[str] | IO[bytes]) -> None:
    """Write a figure as PNG."""
    with warnings.catch_warnings():
        # Tokens may be in any script; a letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="png")


def draw_heat_maps(
    weights: NDArray[np.float64],
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str],
    title: str,
    label: str,
) -> Figure:
    """Draw (num_heads, len(queries), len(keys)) weights; see viz.draw_heat_maps."""
    num_columns = math.ceil(math.sqrt(len(weights)))
    num_rows = math.ceil(len(weights) / num_columns)
    width, height = _panel_size(weights.shape, num_rows, num_columns)
    figure = HeatMaps(
        figsize=(width * num_columns + 1.6, height * num_rows + 0.8),
        dpi=150,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, num_columns, squeeze=False)
    low, high = colour_range(weights)
    for panel in panels.flat[len(weights) :]:
        panel.set_axis_off()
    for panel, head, head_title in zip(panels.flat, weights, titles, strict=False):
        image = _draw_head(panel, head, low, high, is_numbered=weights.size <= _MAX_NUMBERED_CELLS)
        panel.set_title(head_title, fontsize=10, parse_math=False)
        panel.set_xticks(*_ticks(keys, width), rotation=90, fontsize=8, parse_math=False)
        panel.set_yticks(*_ticks(queries, height), fontsize=8, parse_math=False)
    figure.supxlabel("key: attended to", fontsize=9, color=GREY)
    figure.supylabel("query: attends", fontsize=9, color=GREY)
    add_colour_bar(figure, image, panels, label)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def add_colour_bar(
    figure: Figure, image: AxesImage, panels: Axes | NDArray[Any], label: str
) -> None:
    """Draw beside the panels which colour stands for which number."""
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02, aspect=30)
    bar.set_label(label, fontsize=9, color=GREY)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)


def _panel_size(shape: tuple[int, ...], num_rows: int, num_columns: int) -> tuple[float, float]:
    """Return one panel's width and height, limited such that the picture can be drawn."""
    _, num_queries, num_keys = shape
    width, height = (
        min(max(count * _CELL_INCHES + 0.8, _MIN_PANEL_INCHES), _MAX_PANEL_INCHES)
        for count in (num_keys, num_queries)
    )
    return min(width, MAX_SIDE_INCHES / num_columns), min(height, MAX_SIDE_INCHES / num_rows)


def _draw_head(
    panel: Axes, head: NDArray[np.float64], low: float, high: float, *, is_numbered: bool
) -> AxesImage:
    shown = np.ma.masked_invalid(head)  # the rest stays white
    image = panel.imshow(shown, cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="auto")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    if is_numbered and max(head.shape) <= _MAX_NUMBERED_LENGTH:
        for row, column in zip(*np.nonzero(np.isfinite(head)), strict=True):
            value = head[row, column]
            panel.text(
                column,
                row,
                f"{value:.2f}".removeprefix("0"),
                color="black" if value > low + 0.55 * (high - low) else "white",
                fontsize=7,
                ha="center",
                va="center",
                in_layout=False,  # cannot stick out, and laying out thousands of them takes seconds
            )
    return image


def _ticks(labels: Sequence[str], inches: float) -> tuple[list[int], list[str]]:
    """Return positions and texts of as many labels as there is room for, evenly spaced."""
    step = math.ceil(len(labels) * _TICK_INCHES / inches)
    positions = list(range(0, len(labels), step))
    return positions, [_label(labels[position]) for position in positions]


def _label(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text).strip() or repr(text)
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"
