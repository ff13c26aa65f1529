"""Draw heat maps of several heads side by side with matplotlib."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from polyhead._viz.colours import is_light, rgb
from polyhead._viz.figure import (
    GREY,
    Heading,
    Picture,
    draw_cells,
    scale_width,
    short_label,
    widest,
)
from polyhead._viz.fonts import fonts_for
from polyhead._viz.scale import choose_scale
from polyhead._viz.sizes import MAX_SIDE_PX, choose_sizes, pool, pool_starts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from polyhead._viz.figure import Captions
    from polyhead._viz.scale import Scale
    from polyhead._viz.sizes import MapSizes

__all__ = ["draw_heat_maps", "own_scales"]

_GAP = 26  # pixels between maps
_TITLE_PX = 34  # above each map
_CAPTION_PX = 34  # of an axis
_MIN_WIDTH_PX = 760  # leaves room for titles and notes
_ZOOMED_PX, _MAX_ZOOM = 1600, 1.7  # titles grow with pictures wider than this
_LABEL_SIZE, _SMALL_LABEL_SIZE = 8.0, 6.0  # points
_LABEL_PX, _SMALL_LABEL_PX = 19, 14  # height of a line of labels
_NUMBER_SIZE = 7.0  # points
_MAX_NUMBERED_CELLS = 600  # of one picture, because each number takes milliseconds


def draw_heat_maps(
    weights: NDArray[np.float64],
    queries: Sequence[str],
    keys: Sequence[str],
    titles: Sequence[str],
    captions: Captions,
    *,
    is_diverging: bool | None,
    is_scale_shared: bool,
) -> Picture:
    """Draw (num_heads, len(queries), len(keys)) weights; see viz.draw_heat_maps."""
    if len(weights) == 1:
        title = ", ".join(filter(None, (captions.title, titles[0])))
        captions, titles = replace(captions, title=title), [""]
    rows, columns = list(map(short_label, queries)), list(map(short_label, keys))
    with fonts_for([*rows, *columns, captions.title, captions.text]):
        layout = _lay_out(weights.shape, rows, columns, captions, has_titles=any(titles))
        sizes, zoom = layout.sizes, layout.zoom
        cells = panels = pool(weights, sizes.pooled_queries, sizes.pooled_keys)
        label = captions.label
        if len(weights) > 1 and not is_scale_shared:
            maps, titles, label = own_scales(list(cells), titles, label)
            panels = np.stack(maps)
        scale = choose_scale(panels, is_diverging=is_diverging)
        picture = Picture.of_size(layout.width, layout.height)
        is_numbered = _has_numbers(cells, sizes)
        for number, panel in enumerate(panels):
            axes = picture.add_box(*layout.box(number))
            image = draw_cells(axes, panel, scale)
            axes.set_title(titles[number], fontsize=10 * zoom, pad=5, parse_math=False)
            is_first, is_lowest = not number % sizes.columns, number + sizes.columns >= len(panels)
            _label_axes(axes, rows if is_first else (), columns if is_lowest else (), sizes)
            if is_numbered:
                _write_numbers(axes, cells[number], panel, scale)
        top = layout.box(0)[1]
        style = {"fontsize": 9 * zoom, "color": GREY}
        picture.add_text(layout.left, layout.caption_top, "key: attended to", **style)
        picture.add_text(12, top, "query: attends", rotation=90, **style)
        picture.add_scale(
            image, scale, label, (layout.scale_left, top, layout.maps_height), zoom=zoom
        )
        layout.heading.draw(picture)
    return picture


def own_scales(
    maps: Sequence[NDArray[np.float64]], titles: Sequence[str], label: str
) -> tuple[list[NDArray[np.float64]], list[str], str]:
    """Divide each map by its largest number; add this number to its title."""
    sizes = [float(np.abs(each[np.isfinite(each)]).max(initial=0.0)) for each in maps]
    shares = [each / (size or 1.0) for each, size in zip(maps, sizes, strict=True)]
    scaled_titles = [f"{name}: up to {size:.2g}" for name, size in zip(titles, sizes, strict=True)]
    return shares, scaled_titles, f"share of the map's largest {label}"


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts of a picture are, in pixels from its top left corner."""

    sizes: MapSizes
    heading: Heading
    left: int
    """Where the maps begin, right of the queries' labels."""
    map_size: tuple[int, int]
    title_height: int
    keys_height: int
    """Height of the keys' labels."""
    zoom: float
    """How much larger titles are than in a small picture."""

    @property
    def maps_height(self) -> int:
        """Height of all maps, from the top of the first row."""
        step = self.map_size[1] + _GAP + self.title_height
        return self.sizes.rows * step - _GAP - self.title_height

    @property
    def scale_left(self) -> int:
        """Where the scale of colours begins."""
        return self.left + self.sizes.columns * (self.map_size[0] + _GAP)

    @property
    def caption_top(self) -> int:
        """Where the name of the keys' axis begins."""
        return self.box(0)[1] + self.maps_height + self.keys_height

    @property
    def width(self) -> int:
        """Width of the picture."""
        return max(self.scale_left + scale_width(self.zoom), _MIN_WIDTH_PX)

    @property
    def height(self) -> int:
        """Height of the picture."""
        return self.caption_top + round(_CAPTION_PX * self.zoom) + self.heading.bottom

    def box(self, number: int) -> tuple[int, int, int, int]:
        """Return left, top, width and height of a map."""
        row, column = divmod(number, self.sizes.columns)
        width, height = self.map_size
        left = self.left + column * (width + _GAP)
        top = self.heading.top + self.title_height + row * (height + _GAP + self.title_height)
        return left, top, width, height


def _lay_out(
    shape: tuple[int, ...],
    queries: Sequence[str],
    keys: Sequence[str],
    captions: Captions,
    *,
    has_titles: bool,
    zoom: float = 1.0,
) -> _Layout:
    """Lay out a picture; a large one once more with larger titles."""
    num_maps, num_queries, num_keys = shape
    caption_px = round(_CAPTION_PX * zoom)
    left = caption_px + math.ceil(widest(queries, _LABEL_SIZE)) + 16
    keys_height = math.ceil(widest(keys, _LABEL_SIZE)) + 16
    title_height = round(_TITLE_PX * zoom) if has_titles else 0
    heading = Heading(captions, "pooling", zoom=zoom)
    sizes = choose_sizes(
        num_maps,
        num_queries,
        num_keys,
        room=(
            MAX_SIDE_PX - left - scale_width(zoom),
            MAX_SIDE_PX - heading.top - keys_height - caption_px - heading.bottom,
        ),
        gap=(_GAP, _GAP + title_height),
    )
    layout = _Layout(
        sizes=sizes,
        heading=Heading(captions, sizes.pooling, zoom=zoom),
        left=left,
        map_size=(
            math.ceil(num_keys / sizes.pooled_keys) * sizes.cell_width,
            math.ceil(num_queries / sizes.pooled_queries) * sizes.cell_height,
        ),
        title_height=title_height,
        keys_height=keys_height,
        zoom=zoom,
    )
    zoom_wanted = min(layout.width / _ZOOMED_PX, _MAX_ZOOM)
    if zoom > 1 or zoom_wanted <= 1:
        return layout
    return _lay_out(shape, queries, keys, captions, has_titles=has_titles, zoom=zoom_wanted)


def _has_numbers(cells: NDArray[np.float64], sizes: MapSizes) -> bool:
    """Whether each cell has room for its number, and there are few enough of them."""
    if cells.size > _MAX_NUMBERED_CELLS or sizes.pooling or sizes.cell_height < _LABEL_PX:
        return False
    numbers = (_number(cell) for cell in cells[np.isfinite(cells)].tolist())
    return widest(numbers, _NUMBER_SIZE) <= sizes.cell_width - 6


def _write_numbers(
    axes: Axes, numbers: NDArray[np.float64], coloured: NDArray[np.float64], scale: Scale
) -> None:
    """``coloured``: the numbers that the cells' colours show."""
    shares = scale.shares(np.where(np.isfinite(coloured), coloured, 0))
    backgrounds = rgb(shares, is_diverging=scale.is_diverging)
    light = is_light(backgrounds)
    for row, column in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
        axes.text(
            column,
            row,
            _number(numbers[row, column]),
            color="black" if light[row, column] else "white",
            fontsize=_NUMBER_SIZE,
            ha="center",
            va="center",
        )


def _number(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"


def _label_axes(axes: Axes, queries: Sequence[str], keys: Sequence[str], sizes: MapSizes) -> None:
    """Write as many tokens as there is room for, at equal distances."""
    axes.set_xticks(
        *_ticks(keys, sizes.pooled_keys, sizes.cell_width),
        rotation=90,
        fontsize=_label_size(sizes.cell_width),
        parse_math=False,
    )
    axes.set_yticks(
        *_ticks(queries, sizes.pooled_queries, sizes.cell_height),
        fontsize=_label_size(sizes.cell_height),
        parse_math=False,
    )


def _ticks(labels: Sequence[str], pooled: int, cell_px: int) -> tuple[list[int], list[str]]:
    starts = pool_starts(len(labels), pooled)
    line = _LABEL_PX if _label_size(cell_px) == _LABEL_SIZE else _SMALL_LABEL_PX
    places = list(range(0, len(starts), math.ceil(line / cell_px)))
    return places, [labels[starts[place]] for place in places]


def _label_size(cell_px: int) -> float:
    return _LABEL_SIZE if cell_px >= _LABEL_PX else _SMALL_LABEL_SIZE
