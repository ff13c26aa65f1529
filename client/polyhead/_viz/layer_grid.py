"""Draw small heat maps of many layers and heads in one picture, without labels of tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyhead._viz.figure import Heading, Picture, draw_cells, scale_width, widest
from polyhead._viz.fonts import fonts_for
from polyhead._viz.png import own_scales
from polyhead._viz.scale import choose_scale
from polyhead._viz.sizes import MAX_SIDE_PX, pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from polyhead._viz.figure import Captions

__all__ = ["draw_layer_grid"]

_GAP = 10  # pixels between maps
_MAX_MAP_PX, _MIN_WIDTH_PX, _MIN_SCALE_PX = 240, 760, 200
_MAX_CELL_PX, _MIN_CELL_PX, _MIN_MAP_PX = 30, 3, 24
_TITLE_SIZE, _NAMES_PX = 8.0, 36  # points; height of a line of names
_EDGES_PX = 480  # titles, notes, and the scale
_ZOOMED_PX, _MAX_ZOOM = 1600, 1.7  # titles grow with pictures wider than this
_DIRECTIONS = "in each map: keys from left to right, queries from top to bottom"


def draw_layer_grid(
    rows: Mapping[str, Mapping[str, NDArray[np.float64]]],
    captions: Captions,
    *,
    is_diverging: bool | None,
    is_scale_shared: bool,
) -> Picture:
    """Draw heat maps by their row's and their column's title; see viz.draw_layer_grid."""
    columns = list(dict.fromkeys(title for maps in rows.values() for title in maps))
    zoom = min(max(1.0, len(columns) * _MAX_MAP_PX / _ZOOMED_PX), _MAX_ZOOM)
    with fonts_for([captions.text]):
        left = math.ceil(widest(rows, _TITLE_SIZE * zoom)) + 20
        names_width = math.ceil(widest(columns, _TITLE_SIZE * zoom)) + 16
        room = MAX_SIDE_PX - _EDGES_PX - max(left, names_width)
        side = min(_MAX_MAP_PX, room // max(len(columns), len(rows)) - _GAP)
        places = [
            (row, columns.index(title), weights)
            for row, maps in enumerate(rows.values())
            for title, weights in maps.items()
        ]
        longest = max(max(weights.shape) for _, _, weights in places)
        pooled = math.ceil(longest * _MIN_CELL_PX / max(side, 1))
        cell_px = max(1, min(_MAX_CELL_PX, side // math.ceil(longest / pooled)))
        most_queries, most_keys = (
            max(math.ceil(weights.shape[axis] / pooled) for _, _, weights in places)
            for axis in (0, 1)
        )
        cell_height = max(cell_px, min(_MAX_CELL_PX, _MIN_MAP_PX // most_queries))
        step_x, step_y = most_keys * cell_px + _GAP, most_queries * cell_height + _GAP
        maps, label = [pool(weights, pooled, pooled) for _, _, weights in places], captions.label
        if not is_scale_shared:
            maps, _, label = own_scales(maps, [""] * len(maps), label)
        scale = choose_scale(
            np.concatenate([each.reshape(-1) for each in maps]), is_diverging=is_diverging
        )
        pooling = f"each cell: the largest of {pooled} x {pooled}" if pooled > 1 else ""
        heading = Heading(captions, _DIRECTIONS, pooling, zoom=zoom)
        is_rotated = names_width > step_x
        top = heading.top + (names_width if is_rotated else round(_NAMES_PX * zoom))
        width, height = len(columns) * step_x, len(rows) * step_y
        picture = Picture.of_size(
            max(left + width + scale_width(zoom), _MIN_WIDTH_PX),
            top + max(height, _MIN_SCALE_PX) + heading.bottom,
        )
        # One pair of axes for all maps, because each pair takes 10 ms, and there are hundreds.
        axes = picture.add_box(left, top, width, height)
        for (row, column, _), weights in zip(places, maps, strict=True):
            x, y = column * step_x, row * step_y
            right, bottom = x + weights.shape[1] * cell_px, y + weights.shape[0] * cell_height
            image = draw_cells(axes, weights, scale, extent=(x, right, bottom, y))
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_xticks(
            [(n + 0.5) * step_x - _GAP / 2 for n in range(len(columns))],
            columns,
            rotation=90 if is_rotated else 0,
            fontsize=_TITLE_SIZE * zoom,
            parse_math=False,
        )
        axes.set_yticks(
            [(n + 0.5) * step_y - _GAP / 2 for n in range(len(rows))],
            list(rows),
            fontsize=_TITLE_SIZE * zoom,
            parse_math=False,
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        room_below = max(height, _MIN_SCALE_PX) - _GAP
        picture.add_scale(image, scale, label, (left + width, top, room_below), zoom=zoom)
        heading.draw(picture)
    return picture
