"""Attention blocks with random weights, for load tests and for trying things out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.blocks import make_block

if TYPE_CHECKING:
    from numpy.random import BitGenerator
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionBlock, AttentionConfig

__all__ = ["random_block"]


def random_block(config: AttentionConfig, seed: int, *, bias: bool = True) -> AttentionBlock:
    """Draw a block's weights; the same seed, at least 0, gives the same bytes on every machine.

    Every projection is scaled by its input's width, so that embeddings of unit variance give
    queries, keys, values and outputs of order 1. The biases, of all four projections or of none,
    are drawn last: they do not change the weights.
    """
    bits = np.random.PCG64(seed)
    shapes = config.weight_shapes()
    bounds = {name: math.sqrt(3.0 / in_features) for name, (_, in_features) in shapes.items()}
    weights = {name: _uniform(bits, shape, bounds[name]) for name, shape in shapes.items()}
    if bias:
        for name, shape in shapes.items():
            bias_name = name.replace(".weight", ".bias")
            weights[bias_name] = _uniform(bits, shape[:1], bounds[name])
    return make_block(config, weights, source=f"random seed {seed}")


def _uniform(bits: BitGenerator, shape: tuple[int, ...], bound: float) -> NDArray[np.float32]:
    """Draw from [-bound, bound).

    From raw bits, by operations that IEEE 754 rounds one way only: NumPy keeps its bit generators'
    streams the same between versions, and its distributions' not.
    """
    high_24_bits = bits.random_raw(math.prod(shape)) >> np.uint64(40)
    unit = high_24_bits.astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return (unit * np.float32(bound)).reshape(shape)
