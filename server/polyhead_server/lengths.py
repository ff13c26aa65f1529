"""Runs a batch whose sequences have fewer valid keys than it is wide.

Key lengths are slicing, not masking: sequences of one length run together against their valid
keys only. The result is that of a mask, without its q_seq_len x kv_seq_len buffer, and without
computing what padding would have weighed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead_server.call import AttentionInputs, AttentionOutputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig

    RunOnce = Callable[[AttentionInputs], tuple[NDArray[np.float32], NDArray[np.float32] | None]]

__all__ = ["run_by_length"]

_FORBID = np.full((1, 1, 1, 1), -np.inf, dtype=np.float32)


def run_by_length(
    inputs: AttentionInputs, config: AttentionConfig, run_once: RunOnce
) -> AttentionOutputs:
    """Run the inputs, once for each distinct length, and select the weights that are wanted."""
    if inputs.kv_lengths is None:
        output, attn_weights = run_once(inputs)
        is_fused = _runs_fused(inputs, config)
    else:
        output, attn_weights, is_fused = _run_groups(inputs, config, run_once)
    return AttentionOutputs(output, _select(inputs, attn_weights), is_fused)


def _run_groups(
    inputs: AttentionInputs, config: AttentionConfig, run_once: RunOnce
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, bool]:
    lengths = inputs.kv_lengths
    assert lengths is not None
    batch_size, q_seq_len, _ = inputs.query.shape
    kv_seq_len = inputs.key.shape[1]
    output = np.empty((batch_size, q_seq_len, config.output_dim), np.float32)
    attn_weights = None
    if inputs.weights is not None:
        shape = (batch_size, config.num_heads, q_seq_len, kv_seq_len)
        attn_weights = np.zeros(shape, np.float32)
    is_fused = True
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        group = _group(inputs, rows, int(length))
        output[rows], weights = run_once(group)
        if attn_weights is not None and weights is not None:
            attn_weights[rows, :, :, :length] = weights[..., :length]
        is_fused = is_fused and _runs_fused(group, config)
    return output, attn_weights, is_fused


def _group(inputs: AttentionInputs, rows: NDArray[np.int64], length: int) -> AttentionInputs:
    """Take the sequences of one length, with their valid keys alone."""
    mask = inputs.attn_mask
    if length == 0:  # one key that nobody may attend to: rows of zeros, by the graph's own rule
        mask, kept = _FORBID, 1
    else:
        kept = length
        if mask is not None:
            mask = mask[rows] if len(mask) > 1 else mask
            mask = np.ascontiguousarray(mask[..., :kept])
    return AttentionInputs(
        query=inputs.query[rows],
        key=np.ascontiguousarray(inputs.key[rows, :kept]),
        value=np.ascontiguousarray(inputs.value[rows, :kept]),
        attn_mask=mask,
        kv_lengths=None,
        weights=inputs.weights,
    )


def _runs_fused(inputs: AttentionInputs, config: AttentionConfig) -> bool:
    return config.runs_fused(
        need_weights=inputs.weights is not None,
        has_mask=inputs.attn_mask is not None,
        q_seq_len=inputs.query.shape[1],
        kv_seq_len=inputs.key.shape[1],
    )


def _select(
    inputs: AttentionInputs, attn_weights: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """Keep the heads and the query rows that were asked for, in that order."""
    if inputs.weights is None or attn_weights is None:
        return None
    if inputs.weights.heads:
        attn_weights = attn_weights[:, list(inputs.weights.heads)]
    if inputs.weights.queries:
        attn_weights = attn_weights[:, :, list(inputs.weights.queries)]
    return attn_weights
