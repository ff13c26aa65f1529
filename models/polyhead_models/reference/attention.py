"""Multi-head attention in float64 NumPy, to compare with the papers and to test against.

Vaswani et al., "Attention Is All You Need", 2017, sections 3.2.1 and 3.2.2, and its variants; each
function cites its source. ``heads.py`` has the operations on heads of queries, keys and values,
``scores.py`` the biases and masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.quantization import product, rounded
from polyhead_models.reference.heads import (
    concatenate_heads,
    rms_norm,
    rotate_both,
    share_heads,
    split_heads,
)
from polyhead_models.reference.scores import add_biases, add_mask

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from polyhead_models.blocks import AttentionBlock

__all__ = ["AttentionStages", "attend", "attend_stages"]


@dataclass(frozen=True, kw_only=True)
class AttentionStages:
    """The intermediate results of one run of a block, in float64."""

    query: NDArray[np.float64]
    """Queries as they are compared: (batch_size, num_heads, q_seq_len, head_dim)."""
    key: NDArray[np.float64]
    """Keys as they are compared: (batch_size, num_kv_heads, kv_seq_len, head_dim)."""
    value: NDArray[np.float64]
    """Values as they are summed: (batch_size, num_kv_heads, kv_seq_len, v_head_dim)."""
    scores: NDArray[np.float64]
    """Query times key, scaled and soft-capped: (batch_size, num_heads, q_seq_len, kv_seq_len)."""
    masked: NDArray[np.float64]
    """The scores with all biases and masks, of the same shape; minus infinity where a query may not
    attend to a key."""
    attn_weights: NDArray[np.float64]
    """Softmax of ``masked``, of the same shape; zeros where a query may not attend to any key."""
    context: NDArray[np.float64]
    """Weighted sums of the values: (batch_size, num_heads, q_seq_len, v_head_dim)."""
    output: NDArray[np.float64]
    """(batch_size, q_seq_len, output_dim)."""


def attend(
    block: AttentionBlock,
    query: ArrayLike,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    **others: ArrayLike | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run one attention block, and return its output and its attention weights.

    The arguments are those of attend_stages, the shapes those of AttentionStages.
    """
    stages = attend_stages(block, query, key, value, **others)
    return stages.output, stages.attn_weights


def attend_stages(
    block: AttentionBlock,
    query: ArrayLike,
    key: ArrayLike | None = None,
    value: ArrayLike | None = None,
    *,
    attn_mask: ArrayLike | None = None,
    kv_lengths: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    key_positions: ArrayLike | None = None,
) -> AttentionStages:
    """Run one attention block.

    Takes ``query`` (batch_size, q_seq_len, embed_dim), ``key`` (batch_size, kv_seq_len, kdim;
    default: query) and ``value`` (batch_size, kv_seq_len, vdim; default: key). ``attn_mask``
    broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len), aligned at the last axis: bool,
    True where the query may attend to the key, or numbers to add to the scaled scores, with minus
    infinity where it may not. ``kv_lengths`` (batch_size,) counts the valid keys of each sequence.
    ``positions`` and ``key_positions``, (seq_len,) or (batch_size, seq_len), are the positions for
    a rotary embedding. Both default to 0, 1, 2 and so on; without ``key``, ``key_positions``
    defaults to ``positions``.

    Raises ValueError if the arrays' shapes do not fit each other.
    """
    config = block.config
    if key_positions is None and key is None:
        key_positions = positions
    query = _float64(query)
    key = query if key is None else _float64(key)
    value = key if value is None else _float64(value)

    q = split_heads(_project(block, "q_proj", query), config.num_heads, config.head_dim)
    k = split_heads(_project(block, "k_proj", key), config.num_kv_heads, config.head_dim)
    v = split_heads(_project(block, "v_proj", value), config.num_kv_heads, config.v_head_dim)
    if config.qk_norm_eps:
        q = rms_norm(q, block.weights["q_norm.weight"], config.qk_norm_eps)
        k = rms_norm(k, block.weights["k_norm.weight"], config.qk_norm_eps)
    if config.rotary is not None:
        q, k = rotate_both(config.rotary, q, k, positions, key_positions)
    q, k, v = (rounded(heads, config.precision) for heads in (q, k, v))
    shared_k = share_heads(k, config.num_heads)
    shared_v = share_heads(v, config.num_heads)

    products = rounded(q @ shared_k.swapaxes(-2, -1), config.precision)
    scores = rounded(_soft_cap(products * config.scale, config.softcap), config.precision)
    masked = add_mask(add_biases(scores, block), config, attn_mask, kv_lengths)
    attn_weights = rounded(_softmax(masked, block.weights.get("sinks")), config.precision)

    context = rounded(attn_weights @ shared_v, config.precision)
    output = _project(block, "out_proj", concatenate_heads(context))
    return AttentionStages(
        query=q,
        key=k,
        value=v,
        scores=scores,
        masked=masked,
        attn_weights=attn_weights,
        context=context,
        output=output,
    )


def _float64(array: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)


def _project(block: AttentionBlock, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the linear map ``name``, (…, in_features) to (…, out_features), if it exists."""
    weight = block.weights.get(f"{name}.weight")
    if weight is None:
        return x
    return product(x, weight, block.weights.get(f"{name}.bias"), block.config.precision)


def _soft_cap(scores: NDArray[np.float64], softcap: float) -> NDArray[np.float64]:
    """Bound the scores smoothly (Gemma Team, "Gemma 2", 2024, section 2); 0: no bound."""
    return softcap * np.tanh(scores / softcap) if softcap else scores


def _softmax(masked: NDArray[np.float64], sinks: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Normalise over the keys; rows of minus infinity alone become zeros.

    With ``sinks`` (num_heads,), each row's sum includes the head's sink, whose own weight is
    dropped (Agarwal et al., "gpt-oss-120b & gpt-oss-20b Model Card", 2025).
    """
    row_max = masked.max(axis=-1, keepdims=True)
    if sinks is not None:
        sink_scores = _float64(sinks)[:, np.newaxis, np.newaxis]
        row_max = np.maximum(row_max, sink_scores)
    # rows without visible keys are not shifted, because -inf - -inf is NaN
    row_max = np.where(np.isneginf(row_max), 0.0, row_max)
    exponentials = np.exp(masked - row_max)
    row_sum = exponentials.sum(axis=-1, keepdims=True)
    if sinks is not None:
        row_sum = row_sum + np.exp(sink_scores - row_max)
    return exponentials / np.where(row_sum > 0.0, row_sum, 1.0)
