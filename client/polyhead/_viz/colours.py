"""The colours of heat maps in the terminal and as pictures, and their range of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLOURS", "colour_range"]

COLOURS = ("#161a30", "#233e6a", "#22708a", "#2ca08c", "#7acc6c", "#fae65c")
"""From the least attention to the most: dark to light, so that lightness shows the order."""


def colour_range(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Return the numbers that the first and the last colour stand for.

    The first is 0, unless some numbers are negative, as scores are. NaN (not known) and infinities
    (masked) are ignored.
    """
    finite = numbers[np.isfinite(numbers)]
    low = float(finite.min(initial=0.0))
    high = float(finite.max(initial=-np.inf if low < 0 else 0.0))
    return low, high if high > low else low + 1.0
