"""Score biases by the distance between key and query: ALiBi, and T5's buckets.

It imports only NumPy. The graph builder and the reference share these numbers.
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
    series from 2^(-8/n). Other head counts take the slopes of the next lower power of two, then
    every other slope of the next higher one.
    """
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 / lower * np.arange(1, lower + 1))
    between = 2.0 ** (-4.0 / lower * np.arange(1, 2 * (num_heads - lower), 2))
    return np.concatenate([slopes, between]).astype(np.float32)


def relative_buckets(
    distances: NDArray[np.int64], num_buckets: int, max_distance: int, *, is_causal: bool
) -> NDArray[np.int64]:
    """Bucket of each distance (key index - query index), as T5 counts (Raffel et al., 2020).

    Near distances have one bucket each, farther ones share buckets that widen logarithmically, and
    all distances from max_distance on share the last bucket. Without causality, half of the buckets
    are for keys behind the query.
    """
    if is_causal:
        offset, num = np.zeros_like(distances), num_buckets
        near = np.maximum(-distances, 0)
    else:
        num = num_buckets // 2
        offset, near = np.where(distances > 0, num, 0), np.abs(distances)
    num_exact = num // 2
    # float32 as in the models' own code, because its rounding decides at the buckets' bounds
    ratio = (np.maximum(near, 1) / num_exact).astype(np.float32)
    steps = np.log(ratio) / np.float32(math.log(max_distance / num_exact))
    far = num_exact + (steps * np.float32(num - num_exact)).astype(np.int64)
    return offset + np.where(near < num_exact, near, np.minimum(far, num - 1))


def bias_by_distance(
    table: NDArray[np.float32], max_distance: int, *, is_causal: bool
) -> NDArray[np.float32]:
    """Spread a bucket table (num_buckets, num_heads) over distances: (num_heads, 2m + 1).

    Column c is the bias of distance c - m, with m = max_distance. Distances beyond m use m's bias.
    """
    distances = np.arange(-max_distance, max_distance + 1)
    buckets = relative_buckets(distances, len(table), max_distance, is_causal=is_causal)
    return np.ascontiguousarray(table[buckets].T)
