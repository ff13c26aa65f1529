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
"""Bound with which uniform numbers have a variance of 1."""


def uniform(bits: BitGenerator, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Draw from [-bound, bound).

    From raw bits, by operations that IEEE 754 rounds one way only: NumPy keeps its bit generators'
    streams the same between versions, and its distributions' not.
    """
    high_24_bits = bits.random_raw(math.prod(shape)) >> np.uint64(40)
    unit = high_24_bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return (unit * np.float32(bound)).reshape(shape)
