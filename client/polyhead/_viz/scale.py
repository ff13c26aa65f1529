"""A picture's scale: which share of the colours a number stands for, chosen by the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Scale", "choose_scale"]

_EXPONENTS = {1.0: "", 1 / 2: "power 1/2", 1 / 3: "power 1/3", 1 / 4: "power 1/4"}
_VISIBLE_SHARE = 0.3
"""Share of the colours that the upper quarter of all weights shall reach."""
_PERCENTILE = 99.5
_MAX_STRETCH = 3.0
"""How many times the percentile the largest score may be before the scale ends at the former."""
_MAX_SAMPLE = 1_000_000
"""Numbers beyond so many are sampled, because percentiles of tens of millions take seconds."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers to shares of a ramp of colours: 0 is its first colour, and 1 its last."""

    high: float
    """The number that the last colour stands for."""
    exponent: float = 1.0
    """Below 1, small numbers have colours that differ more."""
    is_diverging: bool = False
    """Whether the first colour stands for -high and the middle one for 0, instead of 0."""
    is_clipped: bool = False
    """Whether some numbers are beyond `high`, and have the last colour too."""

    @property
    def low(self) -> float:
        """The number that the first colour stands for."""
        return -self.high if self.is_diverging else 0.0

    def shares(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the share of the colours for each number; NaN stays NaN."""
        relative = np.clip(numbers / self.high, -1.0 if self.is_diverging else 0.0, 1.0)
        powers = np.sign(relative) * np.abs(relative) ** self.exponent
        return (powers + 1) / 2 if self.is_diverging else powers

    def numbers(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number that each share of the colours stands for."""
        powers = shares * 2 - 1 if self.is_diverging else shares
        return np.sign(powers) * np.abs(powers) ** (1 / self.exponent) * self.high

    def ticks(self, *, distance: float = 0.08) -> list[float]:
        """Return round numbers for a legend, at least this share of the colours apart."""
        ticks = [0.0]
        for number in _steps(self.high):
            [share, last] = self.shares(np.array([number, ticks[-1]]))
            if share - last >= distance:
                ticks.append(number)
        return [*(-tick for tick in ticks[:0:-1]), *ticks] if self.is_diverging else ticks

    def describe(self) -> str:
        """Describe the scale, such as "power 1/3"; empty for a plain linear scale."""
        parts = [_EXPONENTS[self.exponent]] if self.exponent < 1 else []
        if self.is_clipped:
            parts.append(f"ends at {self.high:.2g} (percentile {_PERCENTILE:g})")
        return ", ".join(parts)


def choose_scale(numbers: NDArray[np.float64], *, is_diverging: bool | None = None) -> Scale:
    """Choose the scale on which most of the numbers have colours that differ.

    Weights have a linear scale where many are near the largest; otherwise a power; and one that
    ends at a percentile where a few are far above all others. Scores have a linear scale that
    diverges around 0, and ends at a percentile for the same reason.

    ``is_diverging``: None means True if some numbers are negative. NaN (not known) and infinities
    (masked) are ignored, and zeros, because they are what a mask leaves.
    """
    flat = numbers.reshape(-1)
    if is_diverging is None:
        is_diverging = bool(np.any(flat[np.isfinite(flat)] < 0))
    sample = flat[:: max(1, flat.size // _MAX_SAMPLE)]
    sizes = np.abs(sample[np.isfinite(sample) & (sample != 0)])
    largest = float(np.abs(flat[np.isfinite(flat)]).max(initial=0.0))
    if not sizes.size or not largest:
        return Scale(1.0, is_diverging=is_diverging)
    usual = float(np.percentile(sizes, _PERCENTILE))
    if is_diverging:
        is_clipped = largest > _MAX_STRETCH * usual
        return Scale(usual if is_clipped else largest, is_diverging=True, is_clipped=is_clipped)
    upper_quarter = float(np.percentile(sizes, 75))
    if (upper_quarter / largest) ** min(_EXPONENTS) < _VISIBLE_SHARE and usual < largest:
        return Scale(usual, _exponent(upper_quarter / usual), is_clipped=True)
    return Scale(largest, _exponent(upper_quarter / largest))


def _exponent(share: float) -> float:
    """Return the largest exponent that makes this share of the highest number visible."""
    return next((e for e in _EXPONENTS if share**e >= _VISIBLE_SHARE), min(_EXPONENTS))


def _steps(high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten up to `high`, ascending, of six decades."""
    decade = int(np.floor(np.log10(high)))
    steps = (float(f"{digit}e{n}") for n in range(decade - 5, decade + 1) for digit in (1, 2, 5))
    return [step for step in steps if step <= high * 1.0001]
