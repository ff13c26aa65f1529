"""Draw attention weights as heat maps: in the terminal (rich) and as pictures (matplotlib).

Both packages come with the extra ``viz`` and are imported when first needed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from polyhead._checks import bad_value, invalid
from polyhead._viz.matplotlib_import import import_matplotlib
from polyhead._viz.sizes import MAX_BAR_CHARTS
from polyhead.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray
    from rich.console import Console

__all__ = [
    "Scale",
    "check_scale",
    "draw_bars",
    "draw_heat_maps",
    "draw_layer_grid",
    "print_heat_map",
    "require",
    "save_figure",
    "save_heat_maps",
]


Scale: TypeAlias = Literal["shared", "head"]
"""Whether a colour, or a bar's length, means the same number in all heads."""


def print_heat_map(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    title: str = "",
    console: Console | None = None,
    scale_of: ArrayLike | None = None,
    is_diverging: bool | None = None,
) -> None:
    """Print one head's attention weights: a row for each query, a column for each key.

    ``attn_weights``: (len(queries), len(keys)). Each cell holds its number, so that the map can be
    read without colours too; cells of NaN are left empty. Of a map that is too wide or too long for
    the terminal, the queries and keys with the largest weights are printed, in their order, and a
    note says so. Before it comes the whole map in pixels of half a letter, if there are colours.

    ``scale_of``: the numbers that the colours are chosen for, of any shape, such as those of all
    heads; None means `attn_weights`. ``is_diverging``: as for draw_heat_maps.

    Raises InvalidArgumentError if shape and labels disagree, MissingExtraError without rich.
    """
    require("rich")
    from rich.console import Console

    from polyhead._viz import terminal
    from polyhead._viz.scale import choose_scale

    weights = _checked(attn_weights, (len(queries), len(keys)), "(queries, keys)")
    numbers = weights if scale_of is None else np.asarray(scale_of, dtype=np.float64)
    scale = choose_scale(numbers, is_diverging=is_diverging)
    terminal.print_heat_map(
        weights, queries, keys, title=title, console=console or Console(), scale=scale
    )


def draw_heat_maps(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    label: str = "attention weight",
    text: str = "",
    notes: Sequence[str] = (),
    scale: Scale = "shared",
    is_diverging: bool | None = None,
) -> Figure:
    """Draw the attention weights of several heads side by side, as a figure that notebooks show.

    ``attn_weights``: (num_heads, len(queries), len(keys)). Cells of NaN and of infinities are left
    empty. Numbers become colours linearly, or by a power where most are much smaller than the
    largest, or up to a percentile where a few are far above all others; the legend says which.
    ``titles``: one for each head; by default "head 0" and so on. ``title``: above all of them.
    ``text``: what was attended to; its beginning is shown below the title.
    ``label``: what the numbers are. ``notes``: lines below the maps.
    ``scale``: ``"shared"``: a colour is the same number in all heads; ``"head"``: it is a share of
    the largest number of its head, which is in the head's title.
    ``is_diverging``: whether 0 has the middle colour, as befits scores; None means True if some
    numbers are negative.

    A picture has at most 4000 pixels a side. Where a cell would have less than three, it stands for
    several queries and keys, shows the largest of their numbers, and a note says so.

    Raises InvalidArgumentError if shape and labels disagree, MissingExtraError without matplotlib.
    """
    weights, titles = _checked_heads(attn_weights, queries, keys, titles)
    _prepare(scale)
    from polyhead._viz import figure, png

    return png.draw_heat_maps(
        weights,
        queries,
        keys,
        titles,
        figure.Captions(title=title, text=text, label=label, notes=notes),
        is_diverging=is_diverging,
        is_scale_shared=scale == "shared",
    )


def draw_bars(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    label: str = "attention weight",
    text: str = "",
    notes: Sequence[str] = (),
    scale: Scale = "shared",
    has_rest: bool = False,
) -> Figure:
    """Draw rows of attention weights as bars: the keys with the largest, largest first.

    ``attn_weights``: (num_heads, len(queries), len(keys)); each query of each head is a chart of
    its own. NaN and infinities have no bar.
    ``has_rest``: whether the sum of the keys without a bar is written below, as weights have one.
    The other arguments, and errors, are those of draw_heat_maps; with scale ``"head"`` the longest
    bar of each chart is as long as that of the others. Raises InvalidArgumentError also for more
    than 24 charts.
    """
    weights, titles = _checked_heads(attn_weights, queries, keys, titles)
    if len(titles) * len(queries) > MAX_BAR_CHARTS:
        message = f"expected at most {MAX_BAR_CHARTS} rows of weights; got {weights.shape[:2]}"
        raise bad_value("attn_weights", message)
    _prepare(scale)
    from polyhead._viz import bars, figure

    return bars.draw_bars(
        weights,
        queries,
        keys,
        titles,
        figure.Captions(title=title, text=text, label=label, notes=notes),
        has_rest=has_rest,
        is_scale_shared=scale == "shared",
    )


def draw_layer_grid(
    rows: Mapping[str, Mapping[str, ArrayLike]],
    *,
    label: str = "attention weight",
    title: str = "",
    text: str = "",
    notes: Sequence[str] = (),
    scale: Scale = "shared",
    is_diverging: bool | None = None,
) -> Figure:
    """Draw small heat maps in a grid, without labels of tokens: layers by heads, for example.

    ``rows``: by the title of a row of the grid, the maps of its columns by their titles, each
    (queries, keys). The other arguments, and what becomes of large maps: as for draw_heat_maps.

    Raises InvalidArgumentError if there are no maps or one is no matrix, MissingExtraError without
    matplotlib.
    """
    if not any(rows.values()):
        raise bad_value("rows", "expected at least one heat map; got none")
    checked = {
        row: {
            column: _checked(weights, (*np.shape(weights), 0, 0)[:2], "(queries, keys)")
            for column, weights in maps.items()
        }
        for row, maps in rows.items()
    }
    _prepare(scale)
    from polyhead._viz import figure, layer_grid

    return layer_grid.draw_layer_grid(
        checked,
        figure.Captions(title=title, text=text, label=label, notes=notes),
        is_diverging=is_diverging,
        is_scale_shared=scale == "shared",
    )


def save_heat_maps(
    path: str | PathLike[str],
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    label: str = "attention weight",
    text: str = "",
) -> None:
    """Draw heat maps as draw_heat_maps does, and write them as a PNG file.

    Raises what draw_heat_maps raises, and OSError if the file cannot be written.
    """
    figure = draw_heat_maps(
        attn_weights, queries, keys, titles=titles, title=title, label=label, text=text
    )
    save_figure(path, figure)


def save_figure(path: str | PathLike[str], figure: Figure) -> None:
    """Write a figure that this module drew as a PNG file. Raises OSError."""
    from polyhead._viz.figure import save

    save(figure, path)


def require(package: str) -> None:
    """Raise MissingExtraError unless ``rich`` or ``matplotlib`` is installed."""
    if find_spec(package) is None:
        raise MissingExtraError(
            f"heat maps need {package}, which is not installed: pip install 'polyhead[viz]'"
        )


def check_scale(scale: str) -> None:
    """Raise InvalidArgumentError for a scale that there is not."""
    if scale not in ("shared", "head"):
        raise bad_value("scale", f"expected 'shared' or 'head'; got {scale!r}")


def _prepare(scale: str) -> None:
    """Check the arguments of all pictures, and import matplotlib."""
    check_scale(scale)
    require("matplotlib")
    import_matplotlib()


def _checked_heads(
    attn_weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    titles: Sequence[str] | None,
) -> tuple[NDArray[np.float64], Sequence[str]]:
    """Return the weights as an array, and the heads' titles."""
    num_heads = np.shape(attn_weights)[0] if np.ndim(attn_weights) else 0
    shape = (num_heads, len(queries), len(keys))
    weights = _checked(attn_weights, shape, "(num_heads, queries, keys)")
    if titles is None:
        titles = [f"head {head}" for head in range(num_heads)]
    if len(titles) != num_heads:
        message = f"expected one for each of {num_heads} heads; got {len(titles)}"
        raise bad_value("titles", message)
    return weights, titles


def _checked(weights: ArrayLike, shape: tuple[int, ...], axes: str) -> NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != shape or 0 in shape:
        message = f"expected {axes} = {shape}, none of them 0; got shape {array.shape}"
        raise invalid("attn_weights", message, "attn_weights", "SHAPE_MISMATCH")
    return array
