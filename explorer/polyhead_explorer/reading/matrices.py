"""Matrices of weights for the page: without hidden tokens, and small enough to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead import Weights
from polyhead_explorer.reading.groups import Groups
from polyhead_explorer.reading.measures import HeadMeasures
from polyhead_explorer.reading.reading import is_cross

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from numpy.typing import NDArray

    from polyhead_explorer.reading.reading import Reading

__all__ = ["LayerMaps", "MapLayout", "layer_maps", "layer_pair"]


@dataclass(frozen=True, slots=True)
class MapLayout:
    """The rows and columns of a map of weights."""

    rows: Groups
    """The tokens that attend (queries)."""
    keys: Groups
    """The tokens that are attended to. In self-attention they are equal to the rows."""
    renormalise: bool
    """Whether the shown weights of a row are scaled to sum to 1."""

    @classmethod
    def of(
        cls,
        reading: Reading,
        *,
        hidden: Collection[int] = (),
        hidden_keys: Collection[int] = (),
        renormalise: bool = False,
        max_size: int,
    ) -> MapLayout:
        """Hide tokens, and form at most ``max_size`` rows and columns of the others.

        ``hidden``: indices of the hidden tokens. ``hidden_keys``: indices of the hidden keys, for
        cross-attention only.
        """
        rows = keys = Groups.of(len(reading.tokens), hidden=hidden, max_size=max_size)
        if is_cross(reading):
            keys = Groups.of(len(reading.keys), hidden=hidden_keys, max_size=max_size)
        return cls(rows, keys, renormalise)

    def hide_keys(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """Drop the hidden keys: (heads, queries, num_keys) -> (heads, queries, shown keys)."""
        weights = weights[:, :, self.keys.kept].astype(np.float32, copy=False)
        if self.renormalise:
            sums = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
        return weights

    def shrink(self, weights: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        """Return the largest weight of each group of tokens: (heads, groups of ``rows``, columns).

        ``weights``: (heads, queries, shown keys). The queries are the tokens of ``rows``.
        """
        weights = self.rows.largest(weights, rows, axis=1)
        return self.keys.largest(weights, self.keys.all_groups, axis=2)


@dataclass(frozen=True, slots=True)
class LayerMaps:
    """The maps of some heads of a layer."""

    maps: NDArray[np.float32]
    """(heads, groups of rows, groups of keys): the largest weight between two groups of tokens."""
    received: NDArray[np.float32]
    """(heads, num_keys): the mean weight of each key in the shown rows where it is not 0."""
    measures: NDArray[np.float32]
    """(measures, heads): the measures of each head, among the shown tokens (measures.py)."""


async def layer_maps(
    reading: Reading,
    layer: int,
    layout: MapLayout,
    heads: Collection[int] | None = None,
    *,
    max_block_bytes: int = 16 << 20,
) -> LayerMaps:
    """Fetch heads of a layer (None means all) and return their maps. Raises PolyheadError.

    ``max_block_bytes``: most bytes of weights in memory at once. One group of rows of one head may
    take more.
    """
    numbers = range(reading.layers[layer].num_heads) if heads is None else list(heads)
    num_keys = len(reading.keys)
    maps = np.zeros((len(numbers), layout.rows.size, layout.keys.size), np.float32)
    sums = np.zeros((len(numbers), num_keys), np.float64)
    counts = np.zeros((len(numbers), num_keys), np.int64)
    measures = HeadMeasures(len(numbers), len(layout.rows.kept), is_cross=is_cross(reading))
    async for indices, groups, weights in _blocks(reading, layer, layout, numbers, max_block_bytes):
        rows = layout.hide_keys(weights)
        maps[indices, groups] = layout.shrink(rows, groups)
        measures.add(indices, int(layout.rows.starts[groups.start]), rows)
        sums[indices] += weights.sum(axis=1)
        counts[indices] += np.count_nonzero(weights, axis=1)
    received = (sums / np.maximum(counts, 1)).astype(np.float32)
    return LayerMaps(maps, received, measures.means())


async def layer_pair(
    reading: Reading, layer: int, layout: MapLayout, query: int, key: int
) -> NDArray[np.float32]:
    """Return the weight from a token to a shown key in each head. Raises PolyheadError."""
    rows = layout.hide_keys(await reading.weights(layer, Weights(queries=query)))
    return rows[:, 0, np.searchsorted(layout.keys.kept, key)]


async def _blocks(
    reading: Reading, layer: int, layout: MapLayout, heads: range | list[int], max_bytes: int
) -> AsyncIterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield indices of the heads, groups of rows, and their weights: (heads, queries, keys)."""
    row_bytes = len(reading.keys) * 4
    for groups in layout.rows.blocks(max(max_bytes // row_bytes, 1)):
        queries = layout.rows.tokens_of(groups)
        step = max(max_bytes // (row_bytes * len(queries)), 1)
        for first in range(0, len(heads), step):
            indices = slice(first, min(first + step, len(heads)))
            selection = Weights(heads=tuple(heads[indices]), queries=tuple(queries.tolist()))
            yield indices, groups, await reading.weights(layer, selection)
