"""What a request costs to run, known beforehand: multiply-adds, and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionInputs

__all__ = ["is_tiny", "peak_bytes"]

# Handing work to a thread and back costs 0.3 to 0.6 ms of latency and of CPU time (measured with
# one token of width 384 and 768, inline against executor). What takes less is tiny: runs of so few
# multiply-adds, on so few bytes, which have to be moved even where little is computed with them.
_TINY_MULTIPLY_ADDS = 1_000_000
_TINY_BYTES = 256 << 10
_BYTES_PER_NUMBER = 4


def is_tiny(config: AttentionConfig, inputs: AttentionInputs) -> bool:
    """Whether a run takes less time than handing it to another thread."""
    arrays = inputs.query.nbytes + inputs.key.nbytes + inputs.value.nbytes
    return arrays < _TINY_BYTES and _multiply_adds(config, inputs) < _TINY_MULTIPLY_ADDS


def peak_bytes(config: AttentionConfig, inputs: AttentionInputs, max_scores_bytes: int) -> int:
    """Estimate the memory that a run takes at its peak: heads, and its largest score matrix."""
    batch_size, q_seq_len, _ = inputs.query.shape
    kv_seq_len = inputs.key.shape[1]
    keys = kv_seq_len * (config.k_proj_dim + config.v_proj_dim)
    scores = 0
    if inputs.need_output:
        is_fused = config.runs_fused(
            need_weights=inputs.weights is not None and inputs.weights.is_plain,
            has_mask=inputs.attn_mask is not None,
            q_seq_len=q_seq_len,
            kv_seq_len=kv_seq_len,
        )
        if config.fused_holds_scores or not is_fused:
            scores = q_seq_len * config.num_heads * kv_seq_len
        keys += q_seq_len * (config.q_proj_dim + config.context_dim)
    rows, heads = _rows_and_heads_beside(config, inputs)
    scores = max(scores, rows * heads * kv_seq_len)
    # the matrix is held twice while softmax reads one and writes the other
    matrices = 2 * min(batch_size * scores * _BYTES_PER_NUMBER, max_scores_bytes)
    return int(batch_size * keys * _BYTES_PER_NUMBER + matrices)


def _multiply_adds(config: AttentionConfig, inputs: AttentionInputs) -> int:
    """Count a run's multiply-adds: the projections, and the two products of attention."""
    batch_size, q_seq_len, _ = inputs.query.shape
    kv_seq_len = inputs.key.shape[1]
    count = kv_seq_len * config.kdim * config.k_proj_dim * config.has_in_proj
    if inputs.need_output:
        pairs = q_seq_len * kv_seq_len
        count += pairs * config.num_heads * (config.head_dim + config.v_head_dim)
        count += q_seq_len * config.embed_dim * config.q_proj_dim * config.has_in_proj
        count += kv_seq_len * config.vdim * config.v_proj_dim * config.has_in_proj
        count += q_seq_len * config.embed_dim * config.context_dim * config.has_out_proj
    rows, heads = _rows_and_heads_beside(config, inputs)
    count += rows * kv_seq_len * heads * config.head_dim
    count += rows * config.embed_dim * config.q_proj_dim * config.has_in_proj
    return int(batch_size * count)


def _rows_and_heads_beside(config: AttentionConfig, inputs: AttentionInputs) -> tuple[int, int]:
    """Rows and heads of the weights that are computed beside the output, or without it."""
    weights = inputs.weights
    if weights is None:
        return 0, 0
    if inputs.need_output and weights.is_plain and not weights.queries:
        return 0, 0  # they come with the output
    return len(weights.queries) or inputs.query.shape[1], len(weights.heads) or config.num_heads
