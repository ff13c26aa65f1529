"""What the reference adds to attention scores: biases by distance, and masks.

Scores are (batch_size, num_heads, q_seq_len, kv_seq_len) everywhere. Distances go by the places of
query and key in their sequences, both counted from 0, and never by positions.
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
    """Add what the block itself adds by distance: T5's relative bias, and ALiBi."""
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
    """Add a mask of numbers, and put minus infinity where a query may not attend to a key."""
    q_seq_len, kv_seq_len = scores.shape[-2:]
    allowed = _visible(config, _distances(q_seq_len, kv_seq_len))
    if kv_lengths is not None:
        valid = np.arange(kv_seq_len) < np.asarray(kv_lengths)[:, np.newaxis]
        allowed = allowed & valid[:, np.newaxis, np.newaxis, :]
    if attn_mask is not None:
        # broadcast_to and not plain arithmetic, which would let a large mask enlarge the scores
        mask: NDArray[Any] = np.broadcast_to(np.asarray(attn_mask), scores.shape)
        if mask.dtype == np.bool_:
            allowed = allowed & mask
        else:
            scores = scores + mask.astype(np.float64)
    return np.where(allowed, scores, -np.inf)


def _distances(q_seq_len: int, kv_seq_len: int) -> NDArray[np.int64]:
    """How far each key stands behind (negative) or ahead of each query: (q_seq_len, kv_seq_len).

    Aligned at the first query and the first key, also when there are more of one.
    """
    return np.arange(kv_seq_len) - np.arange(q_seq_len)[:, np.newaxis]


def _visible(config: AttentionConfig, distance: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the block itself lets a query see a key: causality, and a sliding window.

    Beltagy et al., "Longformer", 2020, section 3.1; causal as in Mistral 7B (Jiang et al., 2023).
    """
    visible = np.ones(distance.shape, dtype=bool)
    if config.is_causal:
        visible &= distance <= 0
    if config.sliding_window:
        visible &= np.abs(distance) < config.sliding_window
    return visible


def _relative_bias(block: AttentionBlock, distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Learned bias of each head for the bucket that a distance falls into.

    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", 2020, section 2.1: (num_heads, q_seq_len, kv_seq_len).
    """
    config = block.config
    buckets = relative_buckets(
        distance,
        config.relative_buckets,
        config.relative_max_distance,
        is_causal=config.is_causal,
    )
    table = block.weights["relative_bias.weight"].astype(np.float64)
    return np.moveaxis(table[buckets], -1, 0)


def _alibi(num_heads: int, distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Minus each head's slope times the distance: (num_heads, q_seq_len, kv_seq_len).

    Press et al., "Train Short, Test Long", 2022, section 3.
    """
    slopes = alibi_slopes(num_heads).astype(np.float64)[:, np.newaxis, np.newaxis]
    return -slopes * np.abs(distance)
