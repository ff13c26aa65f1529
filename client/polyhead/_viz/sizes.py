"""The sizes of heat maps in a picture: how many beside each other, pixels for a cell, pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MAX_BAR_CHARTS", "MAX_SIDE_PX", "MapSizes", "choose_sizes", "pool", "pool_starts"]

MAX_SIDE_PX = 4000
"""Of a whole picture."""
MAX_BAR_CHARTS = 24
"""Rows of weights that one picture shows as bars."""
_MIN_CELL_PX = 3
_CELL_GOALS = ((56, 1500), (14, 2600), (4, MAX_SIDE_PX))
"""Pixels that a cell has at most, and of all maps together, along one axis; the largest cell wins.

56: a number has room in it. 14: each token's label has room beside it.
"""
_MAX_CELL_RATIO = 3
_WIDTH_TO_HEIGHT = 4 / 3


@dataclass(frozen=True, slots=True)
class MapSizes:
    """How equally large heat maps are laid out."""

    columns: int
    """Number of maps beside each other."""
    rows: int
    """Number of maps below each other."""
    cell_width: int
    """In pixels."""
    cell_height: int
    """In pixels."""
    pooled_queries: int
    """Number of queries that a cell stands for."""
    pooled_keys: int
    """Number of keys that a cell stands for."""

    @property
    def pooling(self) -> str:
        """Describe a cell if it stands for several numbers; empty otherwise."""
        if self.pooled_queries == self.pooled_keys == 1:
            return ""
        return f"each cell: the largest of {self.pooled_queries} x {self.pooled_keys}"


def choose_sizes(
    num_maps: int, num_queries: int, num_keys: int, *, room: tuple[int, int], gap: tuple[int, int]
) -> MapSizes:
    """Choose the sizes of equal heat maps.

    ``room``: the width and height in pixels that all maps may take, with a ``gap`` after each.
    A map that would have cells of less than three pixels is pooled.
    """
    columns = min(
        range(1, num_maps + 1),
        key=lambda n: (
            max(n * (num_keys + 1) / _WIDTH_TO_HEIGHT, math.ceil(num_maps / n) * (num_queries + 2)),
            n * math.ceil(num_maps / n),
        ),
    )
    rows = math.ceil(num_maps / columns)
    keys, width = _cells(num_keys, columns, room[0] - columns * gap[0])
    queries, height = _cells(num_queries, rows, room[1] - rows * gap[1])
    if num_queries == num_keys:
        queries = keys = max(queries, keys)
        width = height = min(width, height)
    return MapSizes(
        columns=columns,
        rows=rows,
        cell_width=min(width, _MAX_CELL_RATIO * height),
        cell_height=min(height, _MAX_CELL_RATIO * width),
        pooled_queries=queries,
        pooled_keys=keys,
    )


def _cells(count: int, num_maps: int, room: int) -> tuple[int, int]:
    """Return how many of `count` numbers a cell stands for, and its pixels, along one axis."""
    each = room // num_maps
    pooled = min(count, math.ceil(count * _MIN_CELL_PX / max(each, 1)))
    cells = math.ceil(count / pooled)
    goals = (min(most, all_px // (num_maps * cells)) for most, all_px in _CELL_GOALS)
    return pooled, max(1, min(max(goals), each // cells))


def pool(weights: NDArray[np.float64], queries: int, keys: int) -> NDArray[np.float64]:
    """Return the largest number of each block of so many queries and keys, of the last two axes.

    NaN and infinities stay only in blocks that hold nothing else.
    """
    if queries == keys == 1:
        return weights
    numbers = np.where(np.isnan(weights), -np.inf, weights)
    numbers = np.maximum.reduceat(numbers, pool_starts(numbers.shape[-2], queries), axis=-2)
    pooled = np.maximum.reduceat(numbers, pool_starts(numbers.shape[-1], keys), axis=-1)
    return np.where(np.isneginf(pooled), np.nan, pooled)


def pool_starts(count: int, pooled: int) -> list[int]:
    """Return where each block of so many begins."""
    return list(range(0, count, pooled))
