"""The reference's score biases by distance, and masks.

Scores always have the shape (batch_size, num_heads, q_seq_len, kv_seq_len). Distances are between
the indices of query and key in their sequences, both counted from 0, never between positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.position_bias import alibi_slopes, relative_buckets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig

__all__ = ["add_biases", "add_mask"]


def add_biases(scores: NDArray[np.float64], block: AttentionBlock) -> NDArray[np.float64]:
    """Add the block's own biases by distance: T5's relative bias, and ALiBi."""
    distance = _distances(*scores.shape[-2:])
    if block.config.relative_buckets:
        scores = scores + _relative_bias(block, distance)
    if block.config.has_alibi:
        scores = scores + _alibi(block.config.num_heads, distance)
    return scores


def add_mask(
    scores: NDArray[np.float64],
    config: AttentionConfig,
    attn_mask: ArrayLike | None,
    kv_lengths: ArrayLike | None,
) -> NDArray[np.float64]:
    """Add an additive mask, and set minus infinity where a query may not attend to a key."""
    q_seq_len, kv_seq_len = scores.shape[-2:]
    allowed = _visible(config, _distances(q_seq_len, kv_seq_len))
    if kv_lengths is not None:
        valid = np.arange(kv_seq_len) < np.asarray(kv_lengths)[:, np.newaxis]
        allowed = allowed & valid[:, np.newaxis, np.newaxis, :]
    if attn_mask is not None:
        # broadcast_to, because plain arithmetic would let a larger mask enlarge the scores
        mask: NDArray[Any] = np.broadcast_to(np.asarray(attn_mask), scores.shape)
        if mask.dtype == np.bool_:
            allowed = allowed & mask
        else:
            scores = scores + mask.astype(np.float64)
    return np.where(allowed, scores, -np.inf)


def _distances(q_seq_len: int, kv_seq_len: int) -> NDArray[np.int64]:
    """Key index minus query index: (q_seq_len, kv_seq_len).

    The first query and the first key are aligned, also if their counts differ.
    """
    return np.arange(kv_seq_len) - np.arange(q_seq_len)[:, np.newaxis]


def _visible(config: AttentionConfig, distance: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Compute which keys each query sees by the block's own causality and sliding window.

    Beltagy et al., "Longformer", 2020, section 3.1; causal as in Mistral 7B (Jiang et al., 2023).
    """
    visible = np.ones(distance.shape, dtype=bool)
    if config.is_causal:
        visible &= distance <= 0
    if config.sliding_window:
        visible &= np.abs(distance) < config.sliding_window
    return visible


def _relative_bias(block: AttentionBlock, distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Look up each head's learned bias of the bucket of a distance.

    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020, section 2.1: (num_heads, q_seq_len, kv_seq_len).
    """
    config = block.config
    buckets = relative_buckets(
        distance, config.relative_buckets, config.relative_max_distance, is_causal=config.is_causal
    )
    table = block.weights["relative_bias.weight"].astype(np.float64)
    return np.moveaxis(table[buckets], -1, 0)


def _alibi(num_heads: int, distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute minus each head's slope times the distance: (num_heads, q_seq_len, kv_seq_len).

    Press et al., "Train Short, Test Long", 2022, section 3.
    """
    slopes = alibi_slopes(num_heads).astype(np.float64)[:, np.newaxis, np.newaxis]
    return -slopes * np.abs(distance)
