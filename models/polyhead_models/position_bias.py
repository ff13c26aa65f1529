"""Biases on the scores that depend on how far a key is from a query: ALiBi, and T5's buckets.

NumPy only: the graph builder and the reference share these numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["alibi_slopes", "bias_by_distance", "relative_buckets"]


def alibi_slopes(num_heads: int) -> NDArray[np.float32]:
    """Slope of each head (Press et al., "Train Short, Test Long", 2022): (num_heads,).

    The bias is minus the slope times the distance. For a power of two the slopes are the geometric
    series from 2^(-8/n); any other number takes those of the power of two below, and then every
    other one of the power of two above.
    """
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-4.0 / lower * np.arange(1, 2 * (num_heads - lower), 2))
    return np.concatenate([slopes, between]).astype(np.float32)


def relative_buckets(
    distances: NDArray[np.int64], num_buckets: int, max_distance: int, *, is_causal: bool
) -> NDArray[np.int64]:
    """Bucket of each distance (key index - query index), as T5 counts (Raffel et al., 2020).

    Near distances have a bucket each, farther ones share buckets that widen as logarithms do, and
    beyond max_distance there is one. Without causality half of the buckets are for keys behind
    the query.
    """
    if is_causal:
        offset, num = np.zeros_like(distances), num_buckets
        near = np.maximum(-distances, 0)
    else:
        num = num_buckets // 2
        offset, near = np.where(distances > 0, num, 0), np.abs(distances)
    num_exact = num // 2
    # float32, as the models' own code: at the buckets' bounds its rounding decides
    ratio = (np.maximum(near, 1) / num_exact).astype(np.float32)
    steps = np.log(ratio) / np.float32(math.log(max_distance / num_exact))
    far = num_exact + (steps * np.float32(num - num_exact)).astype(np.int64)
    return offset + np.where(near < num_exact, near, np.minimum(far, num - 1))


def bias_by_distance(
    table: NDArray[np.float32], max_distance: int, *, is_causal: bool
) -> NDArray[np.float32]:
    """Spread a bucket table (num_buckets, num_heads) over distances: (num_heads, 2m + 1).

    Column c is the bias of distance c - m, m = max_distance; farther ones are as far as m.
    """
    distances = np.arange(-max_distance, max_distance + 1)
    buckets = relative_buckets(distances, len(table), max_distance, is_causal=is_causal)
    return np.ascontiguousarray(table[buckets].T)
