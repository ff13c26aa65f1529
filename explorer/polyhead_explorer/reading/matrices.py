"""Matrices of weights as the page shows them: without hidden tokens, and small enough to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead import Weights
from polyhead_explorer.reading.measures import HeadMeasures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from numpy.typing import NDArray

    from polyhead_explorer.reading.reading import Reading

__all__ = ["LayerMaps", "Shown", "layer_maps", "layer_pair"]


@dataclass(frozen=True, slots=True)
class Shown:
    """Which tokens are shown, and how finely."""

    kept: NDArray[np.intp]
    """The tokens that are not hidden, in order. Never empty."""
    starts: NDArray[np.intp]
    """Where in `kept` each group begins whose tokens share a row and a column."""
    renormalise: bool
    """Whether the weights that are left in a row are scaled to sum to 1."""

    @classmethod
    def of(
        cls, num_tokens: int, *, hidden: Collection[int], renormalise: bool, max_size: int
    ) -> Shown:
        """Hide tokens and group what is left into at most ``max_size`` groups.

        If no token would be left, all are shown.
        """
        kept = np.setdiff1d(np.arange(num_tokens), list(hidden))
        if not len(kept):
            kept = np.arange(num_tokens)
        size = min(len(kept), max_size)
        starts = np.arange(size) * len(kept) // size
        return cls(kept, starts, renormalise)

    def rows(self, max_rows: int) -> Iterator[slice]:
        """Cut the groups into runs of at most ``max_rows`` tokens, or of one group."""
        ends = [*self.starts[1:].tolist(), len(self.kept)]
        first = 0
        for last in range(len(ends)):
            is_full = last + 1 == len(ends) or ends[last + 1] - self.starts[first] > max_rows
            if is_full:
                yield slice(first, last + 1)
                first = last + 1

    def tokens_of(self, groups: slice) -> NDArray[np.intp]:
        """Return the tokens of some groups."""
        end = self.starts[groups.stop] if groups.stop < len(self.starts) else len(self.kept)
        return self.kept[self.starts[groups.start] : end]

    def keys(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """Hide keys: (heads, queries, num_tokens) -> (heads, queries, tokens shown)."""
        weights = weights[:, :, self.kept].astype(np.float32, copy=False)
        if self.renormalise:
            sums = weights.sum(axis=-1, keepdims=True)
            weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
        return weights

    def shrink(self, weights: NDArray[np.float32], groups: slice) -> NDArray[np.float32]:
        """Take the largest weight of each group of tokens.

        ``weights``: (heads, queries, tokens shown), the queries being the tokens of ``groups``.
        Returns (heads, groups, all groups).
        """
        if len(self.starts) == len(self.kept):
            return weights
        rows = self.starts[groups] - self.starts[groups.start]
        return np.maximum.reduceat(np.maximum.reduceat(weights, rows, axis=1), self.starts, axis=2)


@dataclass(frozen=True, slots=True)
class LayerMaps:
    """The weights of some heads of a layer."""

    maps: NDArray[np.float32]
    """(heads, groups, groups): the largest weight between two groups of tokens."""
    received: NDArray[np.float32]
    """(heads, num_tokens): the mean weight that each token gets from those shown that see it."""
    measures: NDArray[np.float32]
    """(measures, heads): what each head does, among the tokens shown (measures.MEASURES)."""


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
    num_tokens, size = len(reading.tokens), len(shown.starts)
    maps = np.zeros((len(wanted), size, size), np.float32)
    sums = np.zeros((len(wanted), num_tokens), np.float64)
    seen = np.zeros((len(wanted), num_tokens), np.int64)
    measures = HeadMeasures(len(wanted), len(shown.kept))
    async for places, groups, weights in _blocks(reading, layer, shown, wanted, max_block_bytes):
        rows = shown.keys(weights)
        maps[places, groups] = shown.shrink(rows, groups)
        measures.add(places, int(shown.starts[groups.start]), rows)
        sums[places] += weights.sum(axis=1)
        seen[places] += np.count_nonzero(weights, axis=1)
    received = (sums / np.maximum(seen, 1)).astype(np.float32)
    return LayerMaps(maps, received, measures.means())


async def layer_pair(
    reading: Reading, layer: int, shown: Shown, query: int, key: int
) -> NDArray[np.float32]:
    """Return the weight from one shown token to another in each head. Raises PolyheadError."""
    rows = shown.keys(await reading.weights(layer, Weights(queries=query)))
    return rows[:, 0, np.searchsorted(shown.kept, key)]


async def _blocks(
    reading: Reading, layer: int, shown: Shown, heads: range | list[int], max_bytes: int
) -> AsyncIterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield places among the heads, groups of rows, and their weights: (heads, queries, keys)."""
    row_bytes = len(reading.tokens) * 4
    for groups in shown.rows(max(max_bytes // row_bytes, 1)):
        queries = shown.tokens_of(groups)
        step = max(max_bytes // (row_bytes * len(queries)), 1)
        for first in range(0, len(heads), step):
            places = slice(first, min(first + step, len(heads)))
            wanted = Weights(heads=tuple(heads[places]), queries=tuple(queries.tolist()))
            yield places, groups, await reading.weights(layer, wanted)
