"""Converts blocks to float16 or int8, and measures the error."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.config import ConfigError
from polyhead_models.random_numbers import UNIT_VARIANCE, uniform
from polyhead_models.reference.attention import attend

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock

__all__ = ["with_precision"]

PROBE_SHAPE = (1, 64)
"""Number of sequences and of tokens used to measure the error."""


def with_precision(block: AttentionBlock, precision: str) -> AttentionBlock:
    """Make the block compute in another precision, and record the error in its provenance.

    The weights are kept; the graph builder rounds them. Raises ConfigError for an unknown
    precision, for int8 if the block has no projections, and for float16 if a weight overflows it.
    """
    config = replace(block.config, precision=precision)
    if precision == "float32":
        return replace(block, config=config)
    if precision == "int8" and not config.has_in_proj:
        raise ConfigError("int8 is for projections, and this block has none; choose float16")
    if precision == "float16":
        _check_range(block)
    rounded = replace(block, config=config)
    bits = np.random.PCG64(0)
    query, key, value = (
        uniform(bits, (*PROBE_SHAPE, width), UNIT_VARIANCE)
        for width in (config.embed_dim, config.kdim, config.vdim)
    )
    exact, _ = attend(block, query, key, value)
    rough, _ = attend(rounded, query, key, value)
    error = float(np.linalg.norm(rough - exact) / np.linalg.norm(exact))
    # two digits, because further digits differ between machines
    provenance = replace(block.provenance, precision_error=float(f"{error:.1e}"))
    return replace(rounded, provenance=provenance)


def _check_range(block: AttentionBlock) -> None:
    limit = float(np.finfo(np.float16).max)
    for name, array in block.weights.items():
        if (largest := float(np.abs(array).max())) > limit:
            raise ConfigError(
                f"{name} holds {largest:g}, beyond float16's {limit:g}; choose float32 or int8"
            )
