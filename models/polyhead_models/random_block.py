"""Attention blocks with random weights, for load tests and experiments."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.blocks import make_block
from polyhead_models.random_numbers import uniform

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig

__all__ = ["random_block"]


def random_block(config: AttentionConfig, seed: int, *, bias: bool = True) -> AttentionBlock:
    """Draw a block's weights; the same seed (0 or more) gives the same bytes on every machine.

    Every projection is scaled by its input's width, so that embeddings of unit variance give
    queries, keys, values and outputs of order 1. With ``bias``, all four projections get biases.
    They are drawn after the projections, and the weights of single variants after them: norms
    between 0.5 and 1.5, sinks and relative position biases between -1 and 1. So an added bias or
    variant does not change the weights that are drawn before it.
    """
    bits = np.random.PCG64(seed)
    shapes = config.weight_shapes()
    projections = {name: shape for name, shape in shapes.items() if name.endswith("_proj.weight")}
    bounds = {name: math.sqrt(3.0 / shape[1]) for name, shape in projections.items()}
    weights = {name: uniform(bits, shape, bounds[name]) for name, shape in projections.items()}
    if bias:
        for name, shape in projections.items():
            bias_name = name.replace(".weight", ".bias")
            weights[bias_name] = uniform(bits, shape[:1], bounds[name])
    for name in ("q_norm.weight", "k_norm.weight"):
        if name in shapes:
            weights[name] = uniform(bits, shapes[name], 0.5) + np.float32(1.0)
    for name in ("relative_bias.weight", "sinks"):
        if name in shapes:
            weights[name] = uniform(bits, shapes[name], 1.0)
    return make_block(config, weights, source=f"random seed {seed}")
