"""Random numbers that are the same on every machine and with every version of NumPy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import BitGenerator
    from numpy.typing import NDArray

__all__ = ["UNIT_VARIANCE", "uniform"]

UNIT_VARIANCE = math.sqrt(3.0)
"""Bound for which uniform numbers have a variance of 1."""
_PART = 1 << 20
"""How many numbers are drawn at once, because their raw bits take twice as much memory."""


def uniform(bits: BitGenerator, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Draw from [-bound, bound).

    The numbers are made from raw bits by operations that IEEE 754 rounds identically everywhere,
    because NumPy keeps the streams of its bit generators between versions, but not those of its
    distributions.
    """
    numbers = np.empty(math.prod(shape), np.float32)
    for start in range(0, len(numbers), _PART):
        part = numbers[start : start + _PART]
        high_24_bits = bits.random_raw(len(part)) >> np.uint64(40)
        unit = high_24_bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
        part[:] = unit * np.float32(bound)
    return numbers.reshape(shape)
