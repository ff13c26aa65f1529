"""The colours of heat maps, in the terminal and as pictures, and what numbers they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLOURS", "colour_range"]

COLOURS = ("#161a30", "#233e6a", "#22708a", "#2ca08c", "#7acc6c", "#fae65c")
"""From no attention to the most: dark to light, so that lightness alone tells the order."""


def colour_range(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Give the numbers that the first and the last colour stand for.

    The first is 0, as for weights, unless some are negative, as scores are. NaN and infinities,
    what is not known and what is forbidden, have no part in it.
    """
    finite = numbers[np.isfinite(numbers)]
    low = float(finite.min(initial=0.0))
    high = float(finite.max(initial=-np.inf if low < 0 else 0.0))
    return low, high if high > low else low + 1.0
