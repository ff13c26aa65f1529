"""Checks a call against its model and the server's limits, without the values of its arrays.

Sizes are checked before any memory of that size is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.call import AttentionInputs, WeightsSelection
from polyhead_server.engine.cost import CostEstimate, fused_sequences
from polyhead_server.engine.runs.plain_run import PlainRun
from polyhead_server.errors import InvalidRequestError, prefix_field_path
from polyhead_server.planning.embeddings import check_embeddings, convert_embeddings
from polyhead_server.planning.positions import check_positions, prepare_positions
from polyhead_server.planning.response_size import (
    ResponseSize,
    check_response_size,
    check_row_of_scores,
    rows_in_a_block,
)
from polyhead_server.planning.selections import check_selection, check_vectors

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

    from polyhead.wire.tensors import TensorLayout
    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import Arrays, AttentionCall
    from polyhead_server.head_vectors import VectorsSelection
    from polyhead_server.planning.embeddings import Embeddings
    from polyhead_server.settings import ServerSettings

__all__ = ["CallPlan", "RowsPlan", "plan_call", "plan_rows"]


@dataclass(frozen=True, slots=True)
class CallPlan:
    """A call that fits its model and the limits. Only the values of its arrays are unchecked.

    Requests of one template share a plan.
    """

    call: AttentionCall
    config: AttentionConfig
    kv_lengths: NDArray[np.int64] | None
    weights: WeightsSelection | None
    """The call's selection, with top_k at most kv_seq_len."""
    size: ResponseSize
    cost: CostEstimate
    plain_run: PlainRun | None
    """The run that computes the call, if one run is enough."""
    num_tokens: int
    """Queries or keys of all sequences, the larger number."""
    allow_non_finite: bool
    vectors: VectorsSelection | None = None
    """The call's selection of vectors, checked."""

    @property
    def batch_key(self) -> Hashable | None:
        """The key of the calls of one model that can run as one batch.

        None means that this call runs alone, because it has a mask, positions or key lengths.
        """
        call = self.call
        extras = (call.attn_mask, call.positions, call.key_positions, self.kv_lengths)
        if any(extra is not None for extra in extras):
            return None
        has_inputs = (call.key is not None, call.value is not None)
        weights = self.weights and replace(self.weights, dtype=None)
        lengths = (call.query.ndim, call.q_seq_len, call.kv_seq_len)
        vectors = self.vectors and replace(self.vectors, dtype=None)
        return lengths, has_inputs, weights, vectors, call.need_output

    def embeddings(self, arrays: Arrays) -> Embeddings:
        """Convert query, key and value of a request or a batch to the model's dtype.

        Raises InvalidRequestError for NaN and infinity.
        """
        return convert_embeddings(arrays, self.config, allow_non_finite=self.allow_non_finite)

    def inputs(self, arrays: Arrays) -> AttentionInputs:
        """Convert all arrays of a request, or of a batch.

        Raises InvalidRequestError for values that are not finite or out of range.
        """
        query, key, value = self.embeddings(arrays)
        positions, key_positions = prepare_positions(self.call, self.config, arrays)
        mask = arrays.get("attn_mask")
        return AttentionInputs(
            query=query,
            key=key,
            value=value,
            attn_mask=None if mask is None else _of_four_axes(mask, self.config),
            kv_lengths=self.kv_lengths,
            weights=self.weights,
            positions=positions,
            key_positions=key_positions,
            need_output=self.call.need_output,
            vectors=self.vectors,
        )


@dataclass(frozen=True, slots=True)
class RowsPlan:
    """A call that is answered in blocks of rows."""

    call_plan: CallPlan
    rows_per_block: int
    held_bytes: int
    """Bytes that the call takes besides the request: blocks and projections."""

    @property
    def multiply_adds_of_block(self) -> int:
        """Estimate the multiply-adds of a block, with its part of the projections."""
        call = self.call_plan.call
        num_rows = len(call.weights.queries if call.weights else ()) or call.q_seq_len
        return self.call_plan.cost.multiply_adds * min(self.rows_per_block, num_rows) // num_rows


def plan_call(call: AttentionCall, config: AttentionConfig, limits: ServerSettings) -> CallPlan:
    """Check a call that gets one response.

    Raises InvalidRequestError, with the path of the field, or LimitExceededError.
    """
    plan = _plan(call, config, limits, by_rows=False)
    check_response_size(plan.size, limits.max_response_bytes)
    return plan


def plan_rows(
    call: AttentionCall, rows_per_block: int, config: AttentionConfig, limits: ServerSettings
) -> RowsPlan:
    """Check a call that is answered in blocks of rows. Raises as plan_call does."""
    with prefix_field_path("call"):
        if call.vectors is not None:
            raise InvalidRequestError(
                "head_vectors",
                "is set, but blocks of rows have no vectors of heads; leave it out here, and call "
                "Attend for them, without output and weights",
                "NOT_APPLICABLE",
            )
        plan = _plan(call, config, limits, by_rows=True)
    rows = rows_in_a_block(plan.size, rows_per_block, limits.max_response_bytes)
    block = plan.size.rows(rows)
    projected = call.batch_size * call.kv_seq_len * (config.k_proj_dim + config.v_proj_dim)
    # a block is computed while the previous one is sent
    held_bytes = 2 * block.computed_bytes + block.nbytes
    return RowsPlan(plan, rows, held_bytes + projected * np.dtype(config.dtype).itemsize)


def _plan(
    call: AttentionCall, config: AttentionConfig, limits: ServerSettings, *, by_rows: bool
) -> CallPlan:
    check_embeddings(call, config)
    batch_size, q_seq_len, kv_seq_len = call.batch_size, call.q_seq_len, call.kv_seq_len
    check_positions(call, config)
    _check_mask(call.attn_mask, (batch_size, config.num_heads, q_seq_len, kv_seq_len))
    kv_lengths = _kv_lengths(call)
    weights = _checked_selection(call, config)
    if call.vectors is not None:
        check_vectors("head_vectors", call.vectors, config.num_heads, (q_seq_len, kv_seq_len))
    heads = _heads_of_scores(call, config, limits.max_scores_bytes, by_rows=by_rows)
    check_row_of_scores(heads, max(call.kv_lengths, default=kv_seq_len), limits.max_scores_bytes)
    cost = CostEstimate.of(call, config, limits.max_scores_bytes, limits.inline_limits)
    return CallPlan(
        call=call,
        config=config,
        kv_lengths=kv_lengths,
        weights=weights,
        size=ResponseSize.of(call, weights, config),
        cost=cost,
        plain_run=PlainRun.of(call, config, limits.max_scores_bytes),
        num_tokens=batch_size * max(q_seq_len, kv_seq_len),
        allow_non_finite=limits.allow_non_finite,
        vectors=call.vectors,
    )


def _heads_of_scores(
    call: AttentionCall, config: AttentionConfig, max_scores_bytes: int, *, by_rows: bool
) -> int:
    """Return the number of heads whose scores a run holds at once, for at least one query."""
    has_mask = call.attn_mask is not None
    runs_fused = (
        fused_sequences(config, call.q_seq_len, length, max_scores_bytes, has_mask=has_mask)
        # each length runs by itself; length 0 has no scores
        for length in set(call.kv_lengths) - {0} or {call.kv_seq_len}
    )
    if call.needs_context and (by_rows or config.fused_holds_scores or not all(runs_fused)):
        return config.num_heads
    if call.weights is None:
        return 0
    return len(call.weights.heads) or config.num_heads


def _check_mask(mask: TensorLayout | None, scores_shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    aligned = scores_shape[-mask.ndim :]
    fits = mask.ndim <= len(scores_shape) and all(
        got in (1, expected) for got, expected in zip(mask.shape, aligned, strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            "attn_mask.shape",
            "expected a shape that broadcasts to (batch_size, num_heads, q_seq_len, kv_seq_len) = "
            f"{list(scores_shape)}; got {list(mask.shape)}",
            "SHAPE_MISMATCH",
            expected=list(scores_shape),
            got=list(mask.shape),
        )


def _kv_lengths(call: AttentionCall) -> NDArray[np.int64] | None:
    lengths, batch_size, kv_seq_len = call.kv_lengths, call.batch_size, call.kv_seq_len
    if not lengths:
        return None
    if len(lengths) != batch_size:
        raise InvalidRequestError(
            "kv_lengths",
            f"expected one for each of the {batch_size} sequences; got {len(lengths)}",
            "SHAPE_MISMATCH",
            expected=batch_size,
            got=len(lengths),
        )
    for index, length in enumerate(lengths):
        if not 0 <= length <= kv_seq_len:
            raise InvalidRequestError(
                f"kv_lengths[{index}]",
                f"expected 0 to kv_seq_len = {kv_seq_len}; got {length}",
                "OUT_OF_RANGE",
            )
    if min(lengths) == kv_seq_len:
        return None
    return np.array(lengths, dtype=np.int64)


def _checked_selection(call: AttentionCall, config: AttentionConfig) -> WeightsSelection | None:
    """Check the selection of weights, and limit top_k to kv_seq_len."""
    weights = call.weights
    if weights is None:
        if not call.need_output and call.vectors is None:
            raise InvalidRequestError(
                "omit_output",
                "is set without attn_weights and head_vectors; set one of them as well",
                "REQUIRED",
            )
        return None
    check_selection("attn_weights", weights, config.num_heads, call.q_seq_len)
    return replace(weights, top_k=min(weights.top_k, call.kv_seq_len))


def _of_four_axes(mask: NDArray[Any], config: AttentionConfig) -> NDArray[Any]:
    """Return a mask with 4 axes, of bools or of numbers that the model can add.

    The mask is not broadcast, because it would become as large as the scores.
    """
    largest = np.finfo(config.dtype).max
    if mask.dtype != bool and not (mask <= largest).all():  # false for NaN, too
        raise InvalidRequestError(
            "attn_mask.data",
            "expected numbers or minus infinity; got NaN, plus infinity or a number beyond "
            f"{config.dtype}, which the model computes with",
            "NON_FINITE",
        )
    return mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
