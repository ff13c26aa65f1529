"""The size of a whole model's response, before a layer runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.wire.tensors import itemsize
from polyhead_server.errors import LimitExceededError
from polyhead_server.head_vectors import KINDS
from polyhead_server.planning.response_size import check_row_of_scores

if TYPE_CHECKING:
    from polyhead_server.engine.runs.forward_run import ForwardRun
    from polyhead_server.engine.runs.stack_plan import PlannedVectors, PlannedWeights, StackPlan
    from polyhead_server.forward_call import ForwardCall
    from polyhead_server.settings import ServerSettings

__all__ = ["check_num_tokens", "check_response_size"]

_OVERHEAD_BYTES, _TOKEN_BYTES, _LENGTH_BYTES, _HEAD_BYTES = 4096, 64, 8, 128
"""Upper bounds of the bytes of a response without arrays, of a token, of a sequence's length, and
of the name and shape of a requested array."""
_INDEX_BYTES = 4


def check_response_size(call: ForwardCall, run: ForwardRun, settings: ServerSettings) -> int:
    """Return an upper bound of the response's size. Raises LimitExceededError if it is too large.

    It is also raised if the scores of one query are over --max-scores-bytes.
    """
    number = itemsize(call.output_dtype)
    lengths = [tokens.num_tokens for tokens in run.outputs.tokens]
    num_tokens = len(lengths) * max(lengths, default=0) if call.pads_tokens else sum(lengths)
    num_bytes = _OVERHEAD_BYTES + _TOKEN_BYTES * num_tokens
    num_bytes += _LENGTH_BYTES * len(run.outputs.lengths)
    num_bytes += _HEAD_BYTES * (len(call.hidden_states) + 2 * len(call.weights))
    num_bytes += _HEAD_BYTES * (len(KINDS) + 1) * len(call.vectors)
    weights_bytes = 0
    for plan in run.plans:
        positions = len(plan.lengths) * plan.seq_len
        num_bytes += plan.need_output * positions * plan.stack.output_size * number
        num_bytes += len(plan.hidden_states) * positions * plan.stack.hidden_size * number
        for vectors in plan.vectors:
            weights_bytes += _bytes_of_vectors(call, run, plan, vectors)
        for planned in plan.weights:
            weights_bytes += _bytes_of_weights(call, run, plan, planned, settings.max_scores_bytes)
    limit = settings.max_response_bytes
    if num_bytes + weights_bytes > limit:
        advice = "send fewer or shorter sequences, or ask for fewer hidden states"
        if weights_bytes > num_bytes:
            advice = "ask for fewer layers, heads or queries, for top_k, or for average_heads"
            if call.vectors:
                advice = "ask for weights or vectors of fewer layers, heads, queries or keys"
        raise LimitExceededError(
            "max_response_bytes",
            f"the response would take {num_bytes + weights_bytes} bytes, over this server's "
            f"{limit}; {advice}; or raise its --max-response-bytes",
            "OUTPUT_TOO_LARGE",
            expected=limit,
            got=num_bytes + weights_bytes,
        )
    return num_bytes + weights_bytes


def check_num_tokens(num_tokens: int, max_response_bytes: int) -> None:
    """Raise LimitExceededError for texts of more tokens than a response may have."""
    if (num_bytes := _TOKEN_BYTES * num_tokens) > max_response_bytes:
        raise LimitExceededError(
            "max_response_bytes",
            f"the response would take more than {num_bytes} bytes, over this server's "
            f"{max_response_bytes}; send fewer or shorter texts; or raise its --max-response-bytes",
            "OUTPUT_TOO_LARGE",
            expected=max_response_bytes,
            got=num_bytes,
        )


def _bytes_of_vectors(
    call: ForwardCall, run: ForwardRun, plan: StackPlan, planned: PlannedVectors
) -> int:
    selection, num_keys = planned.selection, run.num_keys(plan, planned.kind)
    config = run.model.block(plan.stack.name, planned.layer, planned.kind).config
    count = selection.num_numbers(config, len(plan.lengths), plan.seq_len, num_keys)
    return count * itemsize(selection.dtype or call.output_dtype)


def _bytes_of_weights(
    call: ForwardCall,
    run: ForwardRun,
    plan: StackPlan,
    planned: PlannedWeights,
    max_scores_bytes: int,
) -> int:
    selection, num_keys = planned.selection, run.num_keys(plan, planned.kind)
    block = run.model.block(plan.stack.name, planned.layer, planned.kind)
    heads = len(selection.heads) or block.config.num_heads
    check_row_of_scores(heads, num_keys, max_scores_bytes)
    rows = len(planned.rows_of(0)) or plan.seq_len
    count = len(plan.lengths) * (1 if selection.average_heads else heads) * rows
    count *= min(selection.top_k or num_keys, num_keys)
    size = itemsize(selection.dtype or call.output_dtype)
    size_of_queries = len(plan.lengths) * rows * _INDEX_BYTES * bool(planned.rows)
    return count * (size + _INDEX_BYTES * bool(selection.top_k)) + size_of_queries
