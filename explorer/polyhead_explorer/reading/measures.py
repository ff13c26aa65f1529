"""What heads do, in numbers: how much they look at the token before, at the next, and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MEASURES", "HeadMeasures"]

MEASURES = ("previous", "next", "first", "same")
"""In the order in which HeadMeasures gives them."""


class HeadMeasures:
    """Means over a text's tokens, from rows of weights that come in blocks.

    With weights w of n tokens: previous is the mean of w[i, i - 1] over i > 0, next that of
    w[i, i + 1] over i < n - 1, first that of w[i, 0] over i > 0, and same that of w[i, i]. Means
    over no token, which single tokens have, are 0.
    """

    def __init__(self, num_heads: int, num_tokens: int) -> None:
        self._sums = np.zeros((len(MEASURES), num_heads), np.float64)
        others = max(num_tokens - 1, 1)
        self._counts = np.array([others, others, others, max(num_tokens, 1)])

    def add(self, heads: slice, first_row: int, weights: NDArray[Any]) -> None:
        """Add rows of some heads: (heads, rows, num_tokens), the first of them ``first_row``."""
        num_rows, num_tokens = weights.shape[1:]
        rows = np.arange(num_rows)
        tokens = rows + first_row
        later, earlier = tokens > 0, tokens < num_tokens - 1
        for index, (chosen, keys) in enumerate(
            (
                (later, tokens - 1),
                (earlier, tokens + 1),
                (later, np.zeros_like(tokens)),
                (tokens >= 0, tokens),
            )
        ):
            self._sums[index, heads] += weights[:, rows[chosen], keys[chosen]].sum(axis=1)

    def means(self) -> NDArray[np.float32]:
        """Return the means so far: (measures, heads)."""
        means: NDArray[np.float64] = self._sums / self._counts[:, None]
        return means.astype(np.float32)
