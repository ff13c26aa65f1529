"""Measures of heads: how much they attend to the previous token, to the next, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["CROSS_MEASURES", "MEASURES", "HeadMeasures"]

MEASURES = ("previous", "next", "first", "same")
"""The measures of self-attention, in the order of HeadMeasures.means."""
CROSS_MEASURES = ("first",)
"""The measures of cross-attention: no key is the previous, the next or the same token."""


class HeadMeasures:
    """Computes means over a text's tokens from blocks of rows of weights.

    With weights w of n tokens: previous is the mean of w[i, i - 1] over i > 0, next the mean of
    w[i, i + 1] over i < n - 1, first the mean of w[i, 0] over i > 0, and same the mean of w[i, i].
    A mean over no token, as in a text of one token, is 0. In cross-attention, first is the mean of
    w[i, 0] over all i.
    """

    def __init__(self, num_heads: int, num_tokens: int, *, is_cross: bool = False) -> None:
        self._is_cross = is_cross
        num_all, num_others = max(num_tokens, 1), max(num_tokens - 1, 1)
        counts = [num_all] if is_cross else [num_others, num_others, num_others, num_all]
        self._counts = np.array(counts)
        self._sums = np.zeros((len(counts), num_heads), np.float64)

    def add(self, heads: slice, first_row: int, weights: NDArray[Any]) -> None:
        """Add rows of some heads: (heads, rows, num_keys). The first row is ``first_row``."""
        rows = np.arange(weights.shape[1])
        for index, (counted, keys) in enumerate(self._measured(rows + first_row, weights.shape[2])):
            self._sums[index, heads] += weights[:, rows[counted], keys[counted]].sum(axis=1)

    def means(self) -> NDArray[np.float32]:
        """Return the means so far: (measures, heads)."""
        means: NDArray[np.float64] = self._sums / self._counts[:, None]
        return means.astype(np.float32)

    def _measured(
        self, tokens: NDArray[np.intp], num_keys: int
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
        """Yield, for each measure, whether each token counts, and its key."""
        first = np.zeros_like(tokens)
        if self._is_cross:
            yield tokens >= 0, first
            return
        yield tokens > 0, tokens - 1
        yield tokens < num_keys - 1, tokens + 1
        yield tokens > 0, first
        yield tokens >= 0, tokens
