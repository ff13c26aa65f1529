"""The explicit steps from products to attention weights: scale, soft-cap, biases, softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.position_bias import alibi_slopes, bias_by_distance

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig
    from polyhead_models.graph.nodes import Nodes

__all__ = ["Heads", "biases", "scale_and_cap", "softmax"]


@dataclass(frozen=True)
class Heads:
    """Selects the constants of all heads or of chosen heads."""

    chosen: str = ""
    """Name of the int64 input (heads,) with the chosen heads; empty: all heads."""

    def of(self, nodes: Nodes, constant: str) -> str:
        """Take the chosen heads' entries along a constant's first axis."""
        if not self.chosen:
            return constant
        return nodes.add("Gather", [constant, self.chosen], f"{constant}_chosen", axis=0)


def scale_and_cap(nodes: Nodes, config: AttentionConfig, products: str) -> str:
    """Scale the products of queries and keys, and soft-cap them if the block does."""
    nodes.number("scale", config.scale)
    if not config.softcap:
        return nodes.add("Mul", [products, "scale"], "scores")
    nodes.add("Mul", [products, "scale"], "scores_uncapped")
    nodes.number("softcap", config.softcap)
    nodes.add("Div", ["scores_uncapped", "softcap"], "scores_in_caps")
    nodes.add("Tanh", ["scores_in_caps"], "scores_bounded")
    return nodes.add("Mul", ["scores_bounded", "softcap"], "scores")


def biases(nodes: Nodes, block: AttentionBlock, kv_seq_len: str, heads: Heads) -> list[str]:
    """List the block's own score biases, each broadcastable to (heads, queries, keys).

    ``kv_seq_len``: name of the number of keys, int64 (1,).
    """
    config = block.config
    if not config.depends_on_index:
        return []
    # distance (queries, keys): key index minus query index
    nodes.integer("first_index", 0)
    nodes.integer("index_step", 1)
    nodes.integer("upright", [1])
    nodes.add("Squeeze", [kv_seq_len], "key_count")
    nodes.add("Range", ["first_index", "key_count", "index_step"], "key_index")
    # queries without a given index get their own: with no indices given, 0, 1, 2 and so on
    nodes.add("Size", ["query_index"], "num_places_given")
    nodes.add("Shape", ["projected_query"], "q_seq_len", start=1, end=2)
    nodes.add("Squeeze", ["q_seq_len"], "query_count")
    nodes.add("Range", ["num_places_given", "query_count", "index_step"], "own_places")
    nodes.add("Concat", ["query_index", "own_places"], "query_places", axis=0)
    nodes.add("Unsqueeze", ["query_places", "upright"], "query_index_upright")
    nodes.add("Sub", ["key_index", "query_index_upright"], "distance")
    terms = []
    if config.is_causal or config.sliding_window:
        terms.append(_visibility(nodes, config))
    if config.relative_buckets:
        terms.append(_relative_bias(nodes, block, heads))
    if config.has_alibi:
        terms.append(_alibi(nodes, config, heads))
    return terms


def _visibility(nodes: Nodes, config: AttentionConfig) -> str:
    """Add a bias of 0 where a query may see a key, else minus infinity: (queries, keys)."""
    visible = ""
    if config.is_causal:
        visible = nodes.add("LessOrEqual", ["distance", "first_index"], "is_behind")
    if config.sliding_window:
        nodes.add("Abs", ["distance"], "distance_either_way")
        nodes.integer("sliding_window", config.sliding_window)
        near = nodes.add("Less", ["distance_either_way", "sliding_window"], "is_near")
        visible = nodes.add("And", [visible, near], "is_behind_and_near") if visible else near
    nodes.number("allow", 0.0)
    nodes.number("forbid", -np.inf)
    return nodes.add("Where", [visible, "allow", "forbid"], "visibility")


def _relative_bias(nodes: Nodes, block: AttentionBlock, heads: Heads) -> str:
    """Look T5's bias up by distance: (heads, queries, keys)."""
    config, largest = block.config, block.config.relative_max_distance
    table = bias_by_distance(
        block.weights["relative_bias.weight"], largest, is_causal=config.is_causal
    )
    nodes.number("bias_by_distance", table)
    nodes.integer("nearest", -largest)
    nodes.integer("farthest", largest)
    nodes.add("Clip", ["distance", "nearest", "farthest"], "distance_clipped")
    nodes.add("Add", ["distance_clipped", "farthest"], "distance_column")
    head_table = heads.of(nodes, "bias_by_distance")
    return nodes.add("Gather", [head_table, "distance_column"], "relative_bias", axis=1)


def _alibi(nodes: Nodes, config: AttentionConfig, heads: Heads) -> str:
    """Compute minus each head's slope times the distance: (heads, queries, keys)."""
    slopes = -alibi_slopes(config.num_heads).reshape(-1, 1, 1)
    nodes.number("slopes", slopes)
    nodes.add("Abs", ["distance"], "distance_length")
    nodes.add("Cast", ["distance_length"], "distance_number", to=nodes.number_type)
    return nodes.add("Mul", [heads.of(nodes, "slopes"), "distance_number"], "alibi")


def softmax(
    nodes: Nodes,
    block: AttentionBlock,
    scores: str,
    bias: str | None,
    heads: Heads,
    *,
    is_masked: bool,
) -> str:
    """Softmax of scores plus bias over the keys; a row that sees no key becomes zeros."""
    config = block.config
    row_factor = ""
    if bias is not None and (
        is_masked or config.sliding_window
    ):  # only these can hide all keys of a row
        row_factor, bias = _rows_that_see(nodes, bias)
    biased = scores if bias is None else nodes.add("Add", [scores, bias], "scores_biased")
    if config.has_sinks:
        row_factor = _share_left_by_sinks(nodes, block, biased, row_factor, heads)
    if not row_factor:
        return nodes.add("Softmax", [biased], "weights", axis=-1)
    nodes.add("Softmax", [biased], "weights_of_all_rows", axis=-1)
    return nodes.add("Mul", ["weights_of_all_rows", row_factor], "weights")


def _rows_that_see(nodes: Nodes, bias: str) -> tuple[str, str]:
    """Return a factor per row, 1 if the row sees a key and 0 if not, and a finite bias.

    Softmax of minus infinities alone is NaN. Such rows get no bias, and the factor sets their
    weights to 0 afterwards.
    """
    nodes.integer("keys_axis", [-1])
    nodes.number("minus_infinity", -np.inf)
    nodes.number("no_bias", 0.0)
    nodes.add("ReduceMax", [bias, "keys_axis"], "row_max", keepdims=1)
    nodes.add("Greater", ["row_max", "minus_infinity"], "row_sees_a_key")
    nodes.add("Where", ["row_sees_a_key", bias, "no_bias"], "bias_finite")
    nodes.add("Cast", ["row_sees_a_key"], "row_factor", to=nodes.number_type)
    return "row_factor", "bias_finite"


def _share_left_by_sinks(
    nodes: Nodes, block: AttentionBlock, scores: str, row_factor: str, heads: Heads
) -> str:
    """Compute the share of each row's softmax that its head's sink leaves to the keys.

    It is e^z / (e^z + e^sink), where z is the log of the sum of the scores' exponentials.
    """
    nodes.number("sinks", block.weights["sinks"].reshape(-1, 1, 1))
    nodes.integer("all_keys_axis", [-1])
    nodes.add("ReduceLogSumExp", [scores, "all_keys_axis"], "scores_log_sum", keepdims=1)
    nodes.add("Sub", ["scores_log_sum", heads.of(nodes, "sinks")], "above_sink")
    share = nodes.add("Sigmoid", ["above_sink"], "share_of_keys")
    return nodes.add("Mul", [share, row_factor], "row_share") if row_factor else share
