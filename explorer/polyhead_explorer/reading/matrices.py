"""Matrices of weights as the page shows them: without hidden tokens, and small enough to draw."""

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

__all__ = ["LayerMaps", "Shown", "layer_maps", "layer_pair"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a matrix of weights."""

    rows: Groups
    """The tokens that look."""
    keys: Groups
    """The tokens that are looked at: of self-attention, the same."""
    renormalise: bool
    """Whether the weights that are left in a row are scaled to sum to 1."""

    @classmethod
    def of(
        cls,
        reading: Reading,
        *,
        hidden: Collection[int] = (),
        hidden_keys: Collection[int] = (),
        renormalise: bool = False,
        max_size: int,
    ) -> Shown:
        """Hide tokens, and make groups of what is left: at most ``max_size`` each way.

        ``hidden_keys``: of cross-attention, which keys are hidden; of self-attention, ``hidden``
        says that.
        """
        rows = keys = Groups.of(len(reading.tokens), hidden=hidden, max_size=max_size)
        if is_cross(reading):
            keys = Groups.of(len(reading.keys), hidden=hidden_keys, max_size=max_size)
        return cls(rows, keys, renormalise)

    def of_keys(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """Hide keys: (heads, queries, num_keys) -> (heads, queries, keys shown)."""
        weights = weights[:, :, self.keys.kept].astype(np.float32, copy=False)
        if self.renormalise:
            sums = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
        return weights

    def shrink(self, weights: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        """Take the largest weight of each group of tokens.

        ``weights``: (heads, queries, keys shown), the queries being the tokens of ``rows``.
        Returns (heads, groups of rows, all groups of keys).
        """
        weights = self.rows.largest(weights, rows, axis=1)
        return self.keys.largest(weights, self.keys.everything, axis=2)


@dataclass(frozen=True, slots=True)
class LayerMaps:
    """The weights of some heads of a layer."""

    maps: NDArray[np.float32]
    """(heads, groups of rows, groups of keys): the largest weight between two groups of tokens."""
    received: NDArray[np.float32]
    """(heads, num_keys): the mean weight that each key gets from the tokens shown that see it."""
    measures: NDArray[np.float32]
    """(measures, heads): what each head does, among the tokens shown (measures.py)."""


async def layer_maps(
    reading: Reading,
    layer: int,
    shown: Shown,
    heads: Collection[int] | None = None,
    *,
    max_block_bytes: int = 16 << 20,
) -> LayerMaps:
    """Fetch heads of a layer (None: all). Raises PolyheadError.

    ``max_block_bytes``: most weights that are held at once, but for one group of rows of one head.
    """
    wanted = range(reading.layers[layer].num_heads) if heads is None else list(heads)
    num_keys = len(reading.keys)
    maps = np.zeros((len(wanted), shown.rows.size, shown.keys.size), np.float32)
    sums = np.zeros((len(wanted), num_keys), np.float64)
    seen = np.zeros((len(wanted), num_keys), np.int64)
    measures = HeadMeasures(len(wanted), len(shown.rows.kept), is_cross=is_cross(reading))
    async for places, groups, weights in _blocks(reading, layer, shown, wanted, max_block_bytes):
        rows = shown.of_keys(weights)
        maps[places, groups] = shown.shrink(rows, groups)
        measures.add(places, int(shown.rows.starts[groups.start]), rows)
        sums[places] += weights.sum(axis=1)
        seen[places] += np.count_nonzero(weights, axis=1)
    received = (sums / np.maximum(seen, 1)).astype(np.float32)
    return LayerMaps(maps, received, measures.means())


async def layer_pair(
    reading: Reading, layer: int, shown: Shown, query: int, key: int
) -> NDArray[np.float32]:
    """Return the weight from a token to a shown key in each head. Raises PolyheadError."""
    rows = shown.of_keys(await reading.weights(layer, Weights(queries=query)))
    return rows[:, 0, np.searchsorted(shown.keys.kept, key)]


async def _blocks(
    reading: Reading, layer: int, shown: Shown, heads: range | list[int], max_bytes: int
) -> AsyncIterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield places among the heads, groups of rows, and their weights: (heads, queries, keys)."""
    row_bytes = len(reading.keys) * 4
    for groups in shown.rows.runs(max(max_bytes // row_bytes, 1)):
        queries = shown.rows.tokens_of(groups)
        step = max(max_bytes // (row_bytes * len(queries)), 1)
        for first in range(0, len(heads), step):
            places = slice(first, min(first + step, len(heads)))
            wanted = Weights(heads=tuple(heads[places]), queries=tuple(queries.tolist()))
            yield places, groups, await reading.weights(layer, wanted)
