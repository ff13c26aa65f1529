"""Draw attention weights as heat maps: in the terminal (rich) and as pictures (matplotlib).

Both packages come with the extra ``viz`` and are imported when first needed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from polyhead._checks import bad_value, invalid
from polyhead._viz.matplotlib_import import import_matplotlib
from polyhead.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray
    from rich.console import Console

__all__ = [
    "draw_heat_maps",
    "draw_layer_grid",
    "print_heat_map",
    "require",
    "save_figure",
    "save_heat_maps",
]


def print_heat_map(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str = "",
    console: Console | None = None,
) -> None:
    """Print one head's attention weights: a row for each query, a column for each key.

    ``attn_weights``: (len(queries), len(keys)). Colours run from 0, or from the smallest number if
    some are negative, to the largest shown, and each cell holds its number, so that the map can be
    read without colours too; cells of NaN are left empty. A map that is too wide or too long for
    the terminal is cropped, and a note says so.

    Raises InvalidArgumentError if shape and labels disagree, MissingExtraError without rich.
    """
    require("rich")
    from rich.console import Console

    from polyhead._viz import terminal

    weights = _checked(attn_weights, (len(queries), len(keys)), "(queries, keys)")
    terminal.print_heat_map(weights, queries, keys, title, console or Console())


def draw_heat_maps(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    label: str = "attention weight",
) -> Figure:
    """Draw the attention weights of several heads side by side, as a figure that notebooks show.

    ``attn_weights``: (num_heads, len(queries), len(keys)); all heads share one scale of colours,
    from 0, or from the smallest number if some are negative, to the largest. Cells of NaN and of
    infinities are left empty.
    ``titles``: one for each head; by default "head 0" and so on. ``title``: above all of them.
    ``label``: what the numbers are.

    Raises InvalidArgumentError if shape and labels disagree, MissingExtraError without matplotlib.
    """
    require("matplotlib")
    import_matplotlib()
    from polyhead._viz import png

    num_heads = np.shape(attn_weights)[0] if np.ndim(attn_weights) else 0
    weights = _checked(
        attn_weights, (num_heads, len(queries), len(keys)), "(num_heads, queries, keys)"
    )
    if titles is None:
        titles = [f"head {head}" for head in range(num_heads)]
    if len(titles) != num_heads:
        message = f"expected one for each of {num_heads} heads; got {len(titles)}"
        raise bad_value("titles", message)
    return png.draw_heat_maps(weights, queries, keys, titles=titles, title=title, label=label)


def draw_layer_grid(
    rows: Mapping[str, Mapping[str, ArrayLike]], *, label: str = "attention weight"
) -> Figure:
    """Draw small heat maps in a grid, without labels of tokens: layers by heads, for example.

    ``rows``: by the title of a row of the grid, the maps of its columns by their titles, each
    (queries, keys). All share one scale of colours, as in draw_heat_maps.
    ``label``: what the numbers are.

    Raises InvalidArgumentError if there are no maps or one is no matrix, MissingExtraError without
    matplotlib.
    """
    require("matplotlib")
    import_matplotlib()
    from polyhead._viz import layer_grid

    if not any(rows.values()):
        raise bad_value("rows", "expected at least one heat map; got none")
    checked = {
        row: {
            column: _checked(weights, (*np.shape(weights), 0, 0)[:2], "(queries, keys)")
            for column, weights in maps.items()
        }
        for row, maps in rows.items()
    }
    return layer_grid.draw_layer_grid(checked, label=label)


def save_heat_maps(
    path: str | PathLike[str],
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    label: str = "attention weight",
) -> None:
    """Draw heat maps as draw_heat_maps does, and write them as a PNG file.

    Raises what draw_heat_maps raises, and OSError if the file cannot be written.
    """
    figure = draw_heat_maps(attn_weights, queries, keys, titles=titles, title=title, label=label)
    save_figure(path, figure)


def save_figure(path: str | PathLike[str], figure: Figure) -> None:
    """Write a figure that this module drew as a PNG file. Raises OSError."""
    from polyhead._viz import png

    png.save(figure, path)


def require(package: str) -> None:
    """Raise MissingExtraError unless ``rich`` or ``matplotlib`` is installed."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"heat maps need {package}, which is not installed: pip install 'polyhead[viz]'"
        )


def _checked(weights: ArrayLike, shape: tuple[int, ...], axes: str) -> NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != shape or 0 in shape:
        message = f"expected {axes} = {shape}, none of them 0; got shape {array.shape}"
        raise invalid("attn_weights", message, "attn_weights", "SHAPE_MISMATCH")
    return array
