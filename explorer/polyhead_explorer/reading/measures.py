"""What heads do, in numbers: how much they look at the token before, at the next, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["CROSS_MEASURES", "MEASURES", "HeadMeasures"]

MEASURES = ("previous", "next", "first", "same")
"""Of a text's tokens that look at each other, in the order in which HeadMeasures gives them."""
CROSS_MEASURES = ("first",)
"""Of tokens that look at those of another text, among which none is before, next or the same."""


class HeadMeasures:
    """Means over a text's tokens, from rows of weights that come in blocks.

    With weights w of n tokens: previous is the mean of w[i, i - 1] over i > 0, next that of
    w[i, i + 1] over i < n - 1, first that of w[i, 0] over i > 0, and same that of w[i, i]. Means
    over no token, which single tokens have, are 0. Of cross-attention, first is the mean of w[i, 0]
    over all i.
    """

    def __init__(self, num_heads: int, num_tokens: int, *, is_cross: bool = False) -> None:
        self._is_cross = is_cross
        everyone, others = max(num_tokens, 1), max(num_tokens - 1, 1)
        counts = [everyone] if is_cross else [others, others, others, everyone]
        self._counts = np.array(counts)
        self._sums = np.zeros((len(counts), num_heads), np.float64)

    def add(self, heads: slice, first_row: int, weights: NDArray[Any]) -> None:
        """Add rows of some heads: (heads, rows, num_keys), the first of them ``first_row``."""
        rows = np.arange(weights.shape[1])
        for index, (chosen, keys) in enumerate(self._places(rows + first_row, weights.shape[2])):
            self._sums[index, heads] += weights[:, rows[chosen], keys[chosen]].sum(axis=1)

    def means(self) -> NDArray[np.float32]:
        """Return the means so far: (measures, heads)."""
        means: NDArray[np.float64] = self._sums / self._counts[:, None]
        return means.astype(np.float32)

    def _places(
        self, tokens: NDArray[np.intp], num_keys: int
    ) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
        """Yield, for each measure, which tokens count, and the key of each."""
        first = np.zeros_like(tokens)
        if self._is_cross:
            yield tokens >= 0, first
            return
        yield tokens > 0, tokens - 1
        yield tokens < num_keys - 1, tokens + 1
        yield tokens > 0, first
        yield tokens >= 0, tokens
