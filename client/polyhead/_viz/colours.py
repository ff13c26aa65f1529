"""The colours of heat maps in the terminal and as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COLOURS", "DIVERGING_COLOURS", "is_light", "ramp", "rgb"]

COLOURS = ("#161a30", "#233e6a", "#22708a", "#2ca08c", "#7acc6c", "#fae65c")
"""From the least attention to the most: dark to light, so that lightness shows the order."""
DIVERGING_COLOURS = (
    *("#c9f2f2", "#5cb8d6", "#2f6fa8", "#243a66"),
    "#161a30",
    *("#5c2740", "#a8433f", "#e5854a", "#fbe3a0"),
)
"""From the most negative score (blue) over 0 (dark) to the highest (orange)."""


def ramp(*, is_diverging: bool) -> tuple[str, ...]:
    """Return the colours of a scale, from its first to its last."""
    return DIVERGING_COLOURS if is_diverging else COLOURS


def rgb(shares: NDArray[np.float64], *, is_diverging: bool) -> NDArray[np.intp]:
    """Return red, green and blue, 0 to 255, on a new last axis, for shares of the colours."""
    hexes = ramp(is_diverging=is_diverging)
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in hexes], dtype=float)
    places = np.clip(shares, 0, 1) * (len(stops) - 1)
    channels = [np.interp(places, range(len(stops)), channel) for channel in stops.T]
    return np.stack(channels, axis=-1).round().astype(np.intp)


def is_light(colours: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether dark letters are readable on each colour.

    The last axis is red, green, blue. On other colours light letters are readable.
    """
    return np.asarray(colours @ np.array([0.299, 0.587, 0.114]) > 125)
