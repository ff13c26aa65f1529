"""The instrument branch of the graph, which computes only selected attention weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from polyhead_models.graph.branches import all_heads, closed_branch, total
from polyhead_models.graph.scores import Heads, biases, scale_and_cap, softmax

if TYPE_CHECKING:
    import onnx

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes

__all__ = ["instrument_branch"]

STAGE_SCORES, STAGE_MASKED = 2, 3
"""Values of the input ``stage``; any other means after softmax."""


def instrument_branch(nodes: Nodes, block: AttentionBlock) -> onnx.GraphProto:
    """Compute weights of chosen heads at a chosen stage, optionally averaged and cut to the top k.

    It requires a non-empty attn_mask; zeros of shape (1, 1, 1, 1) mask no keys.
    """
    config, heads = block.config, Heads("heads")
    keys = all_heads(nodes, config, "key")
    nodes.add("Shape", [keys], "kv_seq_len", start=2, end=3)
    nodes.integer("q_split_shape", [0, 0, config.num_heads, config.head_dim])
    nodes.integer("group", config.num_heads // config.num_kv_heads)
    nodes.add("Div", ["heads", "group"], "kv_heads")
    nodes.add("Reshape", ["projected_query", "q_split_shape"], "q_split")
    nodes.add("Transpose", ["q_split"], "q_heads", perm=[0, 2, 1, 3])
    nodes.add("Gather", ["q_heads", "heads"], "q_chosen", axis=1)
    nodes.add("Gather", [keys, "kv_heads"], "k_chosen", axis=1)
    nodes.add("Transpose", ["k_chosen"], "k_chosen_transposed", perm=[0, 1, 3, 2])
    nodes.add("MatMul", ["q_chosen", "k_chosen_transposed"], "products")
    scale_and_cap(nodes, config, "products")
    terms = [_mask_of_heads(nodes), *biases(nodes, block, "kv_seq_len", heads)]
    bias = total(nodes, terms)
    assert bias is not None
    _at_stage(nodes, block, bias, heads)
    _averaged(nodes)
    _cut_to_top(nodes)
    return closed_branch(
        nodes, config, "instrument", attn_weights="weights_wanted", top_keys="keys_wanted"
    )


def _mask_of_heads(nodes: Nodes) -> str:
    """Select the mask's rows of the chosen heads; a mask with one head serves all of them."""
    nodes.add("Shape", ["attn_mask"], "mask_heads", start=1, end=2)
    nodes.integer("one_1d", [1])
    nodes.add("Sub", ["mask_heads", "one_1d"], "last_mask_head")
    nodes.add("Min", ["heads", "last_mask_head"], "mask_heads_chosen")
    return nodes.add("Gather", ["attn_mask", "mask_heads_chosen"], "mask_chosen", axis=1)


def _at_stage(nodes: Nodes, block: AttentionBlock, bias: str, heads: Heads) -> None:
    """Output ``staged``: the scores unmasked, masked, or after softmax."""
    masked = nodes.branch()
    masked.add("Add", ["scores", bias], "scores_masked")
    weights = nodes.branch()
    softmax(weights, block, "scores", bias, heads, is_masked=True)
    biased = nodes.branch()
    biased.integer("masked_stage", STAGE_MASKED)
    biased.add("Equal", ["stage", "masked_stage"], "is_masked_stage")
    biased.choose(
        "is_masked_stage",
        ["staged_biased"],
        masked.closed("masked_scores", {"scores_masked": nodes.number_type}),
        weights.closed("after_softmax", {"weights": nodes.number_type}),
    )
    scores = nodes.branch()
    scores.add("Identity", ["scores"], "scores_unmasked")
    nodes.integer("scores_stage", STAGE_SCORES)
    nodes.add("Equal", ["stage", "scores_stage"], "is_scores_stage")
    nodes.choose(
        "is_scores_stage",
        ["staged"],
        scores.closed("unmasked_scores", {"scores_unmasked": nodes.number_type}),
        biased.closed("with_bias", {"staged_biased": nodes.number_type}),
    )


def _averaged(nodes: Nodes) -> None:
    """Output ``averaged``: the mean over the heads if requested, otherwise every head."""
    mean, heads = nodes.branch(), nodes.branch()
    mean.integer("heads_axis", [1])
    mean.add("ReduceMean", ["staged", "heads_axis"], "mean_of_heads", keepdims=1)
    heads.add("Identity", ["staged"], "each_head")
    nodes.choose(
        "average_heads",
        ["averaged"],
        mean.closed("mean_of_heads", {"mean_of_heads": nodes.number_type}),
        heads.closed("each_head", {"each_head": nodes.number_type}),
    )


def _cut_to_top(nodes: Nodes) -> None:
    """Output the largest weights of each row and their keys, or all weights and no keys."""
    top, everything = nodes.branch(), nodes.branch()
    top.integer("one_axis", [1])
    top.add("Reshape", ["top_k", "one_axis"], "top_k_1d")
    top.add("Min", ["top_k_1d", "kv_seq_len"], "top_k_there")
    top.add("TopK", ["averaged", "top_k_there"], "top_weights", "top_index", axis=-1)
    top.add("Cast", ["top_index"], "top_keys_int32", to=TensorProto.INT32)
    everything.add("Identity", ["averaged"], "all_weights")
    none = everything.array("none", np.zeros((0, 0, 0, 0), np.int32))
    everything.add("Identity", [none], "no_keys")
    nodes.integer("no_top_k", 0)
    nodes.add("Greater", ["top_k", "no_top_k"], "is_cut")
    number, index = nodes.number_type, TensorProto.INT32
    nodes.choose(
        "is_cut",
        ["weights_wanted", "keys_wanted"],
        top.closed("largest", {"top_weights": number, "top_keys_int32": index}),
        everything.closed("everything", {"all_weights": number, "no_keys": index}),
    )
