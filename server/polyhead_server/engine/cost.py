"""Estimates the cost of a request before it runs: multiply-adds and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionCall
    from polyhead_server.limits import InlineLimits

__all__ = [
    "FLOAT_BYTES",
    "Batching",
    "CostEstimate",
    "fused_sequences",
    "multiply_adds_of_scores",
]

FLOAT_BYTES = 4
"""Size of one number during a computation."""

# A fused operator cannot be cancelled, neither by a deadline nor by draining. So one run computes
# at most so many, which takes 5 to 10 s on one thread. Larger requests run in parts.
_MAX_FUSED_MULTIPLY_ADDS = 200_000_000_000
_MULTIPLY_ADDS_OF_SCORE = 60
"""A score takes as long as so many multiply-adds, besides its own: 1.2 to 1.5 ns with heads of
width 3 to 16, 3 ns with 64, on one thread."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Limits on batching."""

    max_tokens: int
    """Most tokens in a batch of several requests."""
    solo_above_tokens: int
    """Requests of more tokens run alone, because batching does not make them faster."""
    max_short_multiply_adds: int
    """Runs of at most so many multiply-adds are short, so they do not wait for long runs. They take
    up to 0.1 s on one thread of a CPU."""

    @classmethod
    def on(cls, provider: str) -> Batching:
        """Return the default limits for one of ONNX Runtime's providers.

        On a CPU, batching shares the fixed cost of a run and of reading the parameters.
        Microseconds for each sequence on one thread, alone -> in a batch of 16:

            embed_dim     1 token     4 tokens      8 tokens     16 tokens     32 tokens
                   64     80 -> 6      42 -> 8      60 -> 16      50 -> 20     106 -> 44
                  384   131 -> 22    159 -> 82    228 -> 167    280 -> 281    661 -> 510
                  768   350 -> 94   373 -> 303   1012 -> 546  1580 -> 1024  2771 -> 2091
                 2048 4193 -> 615 5252 -> 1871  7332 -> 3427 10226 -> 7623 (4 at a time)

        A GPU needs far more tokens to be busy. Its limits are guesses, not measurements.
        """
        if provider == "CPUExecutionProvider":
            return cls(256, 16, 4_000_000_000)
        return cls(8192, 1024, 400_000_000_000)


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Estimated cost of running one request."""

    multiply_adds: int
    moved_bytes: int
    """Size of query, key and value in float32."""
    peak_bytes: int
    """Peak memory: the projected heads and the largest score matrices."""
    num_lengths: int
    """Number of different key lengths; each needs a run of the graph."""
    runs_inline: bool
    """Whether the run takes less time than handing it to a worker thread."""

    @classmethod
    def of(
        cls,
        call: AttentionCall,
        config: AttentionConfig,
        max_scores_bytes: int,
        inline: InlineLimits,
    ) -> CostEstimate:
        """Estimate the cost of a call that fits its model."""
        widths = config.embed_dim * call.q_seq_len + (config.kdim + config.vdim) * call.kv_seq_len
        multiply_adds = _multiply_adds(call, config)
        moved_bytes = call.batch_size * widths * FLOAT_BYTES
        num_lengths = len(set(call.kv_lengths)) or 1
        is_small = moved_bytes < inline.max_moved_bytes and multiply_adds < inline.max_multiply_adds
        return cls(
            multiply_adds=multiply_adds,
            moved_bytes=moved_bytes,
            peak_bytes=_peak_bytes(call, config, max_scores_bytes),
            num_lengths=num_lengths,
            runs_inline=is_small and num_lengths == 1,
        )


def fused_sequences(
    config: AttentionConfig,
    q_seq_len: int,
    kv_seq_len: int,
    max_scores_bytes: int,
    *,
    has_mask: bool,
) -> int:
    """Return the most sequences in one run of the fused branch; 0: use the explicit branch.

    This is for an output alone. All weights and their output use the explicit branch.
    """
    is_fused = config.runs_fused(
        need_weights=False, has_mask=has_mask, q_seq_len=q_seq_len, kv_seq_len=kv_seq_len
    )
    if not is_fused:
        return 0
    scores = config.num_heads * q_seq_len * kv_seq_len
    count = _MAX_FUSED_MULTIPLY_ADDS // (scores * _multiply_adds_of_score(config))
    if config.fused_holds_scores:
        count = min(count, max_scores_bytes // (scores * FLOAT_BYTES))
    return count


def multiply_adds_of_scores(config: AttentionConfig, num_pairs: int) -> int:
    """Return the multiply-adds of all heads' scores and context, of pairs of a query and a key."""
    return int(num_pairs * config.num_heads * _multiply_adds_of_score(config))


def _peak_bytes(call: AttentionCall, config: AttentionConfig, max_scores_bytes: int) -> int:
    keys = call.kv_seq_len * (config.k_proj_dim + config.v_proj_dim)
    scores = 0
    if call.needs_context:
        is_plain = call.weights is not None and call.weights.is_plain
        has_mask = call.attn_mask is not None
        is_fused = not is_plain and fused_sequences(
            config, call.q_seq_len, call.kv_seq_len, max_scores_bytes, has_mask=has_mask
        )
        if config.fused_holds_scores or not is_fused:
            scores = call.q_seq_len * config.num_heads * call.kv_seq_len
        keys += call.q_seq_len * (config.q_proj_dim + config.context_dim)
    elif call.vectors is not None:
        keys += call.q_seq_len * config.q_proj_dim
    rows, heads = _separate_rows_and_heads(call, config)
    scores = max(scores, rows * heads * call.kv_seq_len)
    # two matrices, because softmax reads one and writes another
    matrices = 2 * min(call.batch_size * scores * FLOAT_BYTES, max_scores_bytes)
    return int(call.batch_size * keys * FLOAT_BYTES + matrices)


def _multiply_adds(call: AttentionCall, config: AttentionConfig) -> int:
    """Count multiply-adds of the projections and of the two products of attention."""
    q_seq_len, kv_seq_len = call.q_seq_len, call.kv_seq_len
    count = kv_seq_len * config.kdim * config.k_proj_dim * config.has_in_proj
    if call.needs_context:
        pairs = q_seq_len * kv_seq_len
        count += multiply_adds_of_scores(config, pairs)
        count += q_seq_len * config.embed_dim * config.q_proj_dim * config.has_in_proj
        count += kv_seq_len * config.vdim * config.v_proj_dim * config.has_in_proj
        count += q_seq_len * config.embed_dim * config.context_dim * config.has_out_proj
    elif call.vectors is not None:  # projections alone
        count += q_seq_len * config.embed_dim * config.q_proj_dim * config.has_in_proj
        count += kv_seq_len * config.vdim * config.v_proj_dim * config.has_in_proj
    rows, heads = _separate_rows_and_heads(call, config)
    count += rows * kv_seq_len * heads * (config.head_dim + _MULTIPLY_ADDS_OF_SCORE)
    count += rows * config.embed_dim * config.q_proj_dim * config.has_in_proj
    return int(call.batch_size * count)


def _multiply_adds_of_score(config: AttentionConfig) -> int:
    return config.head_dim + config.v_head_dim + _MULTIPLY_ADDS_OF_SCORE


def _separate_rows_and_heads(call: AttentionCall, config: AttentionConfig) -> tuple[int, int]:
    """Return the numbers of rows and heads whose weights are computed separately."""
    weights = call.weights
    if weights is None:
        return 0, 0
    if call.need_output and weights.is_plain and not weights.queries:
        return 0, 0  # the output's run computes them
    return len(weights.queries) or call.q_seq_len, len(weights.heads) or config.num_heads
