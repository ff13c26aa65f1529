"""Estimates how long the steps of a whole model's run take, before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.engine.cost import multiply_adds_of_scores
from polyhead_server.engine.runs.forward_run import sequences_at_once

if TYPE_CHECKING:
    from polyhead_models.config import AttentionConfig
    from polyhead_server.engine.runs.forward_run import ForwardRun
    from polyhead_server.engine.runs.stack_plan import StackPlan

__all__ = ["has_short_steps"]

_FEED_FORWARD_WIDTHS = 12
"""Multiply-adds of a feed-forward sublayer for each token and each pair of hidden widths, at most:
three matrices of 4 x width, of which many models have two."""


def has_short_steps(run: ForwardRun) -> bool:
    """Whether no step of a run is so long that short runs must not wait for it."""
    model = run.model
    most = next(model.blocks()).batching.max_short_multiply_adds
    return all(_longest_step(run, plan) <= most for plan in run.plans)


def _longest_step(run: ForwardRun, plan: StackPlan) -> int:
    """Estimate the multiply-adds of the longest step of a stack, for its longest sequences."""
    length = max(map(int, plan.lengths), default=0)
    num_sequences = min(len(plan.lengths), sequences_at_once(length))
    num_tokens = num_sequences * length
    steps = [_FEED_FORWARD_WIDTHS * num_tokens * plan.stack.hidden_size**2]
    layer = min(plan.first_layer, len(plan.stack.layers) - 1)
    for sublayer in plan.stack.layers[layer]:
        if sublayer.block is not None:
            num_keys = length if sublayer.kind == "self" else run.num_keys(plan, sublayer.kind)
            scores = multiply_adds_of_scores(sublayer.block, num_tokens * num_keys)
            steps.append(scores + num_tokens * _projection_widths(sublayer.block))
    return max(steps)


def _projection_widths(config: AttentionConfig) -> int:
    """Return the multiply-adds of a token's projections."""
    projected = config.q_proj_dim + config.k_proj_dim + config.v_proj_dim + config.context_dim
    return int(config.embed_dim * projected)
