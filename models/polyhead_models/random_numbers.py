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


def uniform(bits: BitGenerator, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Draw from [-bound, bound).

    The numbers are made from raw bits by operations that IEEE 754 rounds identically everywhere,
    because NumPy keeps the streams of its bit generators between versions, but not those of its
    distributions.
    """
    high_24_bits = bits.random_raw(math.prod(shape)) >> np.uint64(40)
    unit = high_24_bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return (unit * np.float32(bound)).reshape(shape)
