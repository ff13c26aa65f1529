"""Multi-head attention in float64 NumPy: to be read beside the paper, and to be tested against.

Vaswani et al., "Attention Is All You Need", 2017, sections 3.2.1 and 3.2.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from polyhead_models.config import AttentionBlock

__all__ = ["attend"]


def attend(
    block: AttentionBlock,
    query: ArrayLike,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    *,
    attn_mask: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run one attention block.

    Takes ``query`` (batch_size, q_seq_len, embed_dim), ``key`` (batch_size, kv_seq_len, kdim;
    default: query) and ``value`` (batch_size, kv_seq_len, vdim; default: key). ``attn_mask``
    broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len), aligned at the last axis: bool,
    True where the query may attend to the key, or numbers to add to the scaled scores, where minus
    infinity forbids. ``kv_lengths`` (batch_size,) counts the valid keys of each sequence.

    Gives the output (batch_size, q_seq_len, output_dim) and the attention weights (batch_size,
    num_heads, q_seq_len, kv_seq_len). A query that may attend to nothing has weights and context
    of zeros.
    """
    query = _float64(query)
    key = query if key is None else _float64(key)
    value = key if value is None else _float64(value)

    q = _split_heads(block, _project(block, "q_proj", query))
    k = _split_heads(block, _project(block, "k_proj", key))
    v = _split_heads(block, _project(block, "v_proj", value))

    attn_scores = q @ k.swapaxes(-2, -1) * block.config.scale
    attn_scores = _mask(attn_scores, attn_mask, kv_lengths, is_causal=block.config.is_causal)
    attn_weights = _softmax(attn_scores)

    context = _concatenate_heads(attn_weights @ v)
    output = _project(block, "out_proj", context) if block.config.has_out_proj else context
    return output, attn_weights


def _float64(array: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)


def _project(block: AttentionBlock, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the linear map ``name``: (…, in_features) to (…, out_features)."""
    projected = x @ _float64(block.weights[f"{name}.weight"]).T
    bias = block.weights.get(f"{name}.bias")
    return projected if bias is None else projected + bias


def _split_heads(block: AttentionBlock, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """(batch_size, seq_len, inner_dim) to (batch_size, num_heads, seq_len, head_dim)."""
    heads = x.reshape(*x.shape[:2], block.config.num_heads, block.config.head_dim)
    return heads.swapaxes(1, 2)


def _concatenate_heads(heads: NDArray[np.float64]) -> NDArray[np.float64]:
    """(batch_size, num_heads, seq_len, head_dim) to (batch_size, seq_len, inner_dim)."""
    batch_size, _, seq_len, _ = heads.shape
    return heads.swapaxes(1, 2).reshape(batch_size, seq_len, -1)


def _mask(
    attn_scores: NDArray[np.float64],
    attn_mask: ArrayLike | None,
    kv_lengths: ArrayLike | None,
    *,
    is_causal: bool,
) -> NDArray[np.float64]:
    """Put minus infinity where a query may not attend to a key, and add a mask of numbers."""
    q_seq_len, kv_seq_len = attn_scores.shape[-2:]
    allowed: NDArray[np.bool_] = np.ones((q_seq_len, kv_seq_len), dtype=bool)
    if is_causal:
        # aligned at the first query and the first key, also when there are more of one
        allowed = np.tri(q_seq_len, kv_seq_len, dtype=bool)
    if kv_lengths is not None:
        valid = np.arange(kv_seq_len) < np.asarray(kv_lengths)[:, np.newaxis]
        allowed = allowed & valid[:, np.newaxis, np.newaxis, :]
    if attn_mask is not None:
        # broadcast_to and not plain arithmetic, which would let a large mask enlarge the scores
        mask: NDArray[Any] = np.broadcast_to(np.asarray(attn_mask), attn_scores.shape)
        if mask.dtype == np.bool_:
            allowed = allowed & mask
        else:
            attn_scores = attn_scores + mask.astype(np.float64)
    return np.where(allowed, attn_scores, -np.inf)


def _softmax(attn_scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normalise over the keys; rows of nothing but minus infinity become zeros."""
    row_max = attn_scores.max(axis=-1, keepdims=True)
    exponentials = np.exp(attn_scores - np.where(np.isneginf(row_max), 0.0, row_max))
    row_sum = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / np.where(row_sum > 0.0, row_sum, 1.0)
