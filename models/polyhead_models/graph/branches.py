"""The branches of the graph: fused, explicit (masked or not), and the instrument.

Each takes q, projected_key and projected_value, (batch_size, seq_len, heads side by side), from
the graph around it, and gives the context, attention weights and top keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from polyhead_models.graph.nodes import FUSED_DOMAIN
from polyhead_models.graph.scores import Heads, biases, scale_and_cap, softmax

if TYPE_CHECKING:
    import onnx

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.config import AttentionConfig
    from polyhead_models.graph.nodes import Nodes

__all__ = [
    "BRANCH_OUTPUTS",
    "explicit_attention",
    "explicit_branch",
    "fused_branch",
    "instrument_branch",
]

BRANCH_OUTPUTS = ("context", "attn_weights", "top_keys")
STAGE_SCORES, STAGE_MASKED = 2, 3
"""Values of the input ``stage``; any other means after softmax."""


def fused_branch(nodes: Nodes, block: AttentionBlock) -> onnx.GraphProto:
    """One operator from heads to context, which stays off the score matrix where it can."""
    config = block.config
    key, value = "projected_key", "projected_value"
    if not config.is_causal and config.num_kv_heads < config.num_heads:
        # MultiHeadAttention knows no shared heads
        key = _repeated(nodes, config, key, config.head_dim)
        value = _repeated(nodes, config, value, config.v_head_dim)
    attributes: dict[str, Any] = {"num_heads": config.num_heads, "scale": config.scale}
    if not config.is_causal:
        nodes.add(
            "MultiHeadAttention", ["q", key, value], "context", domain=FUSED_DOMAIN, **attributes
        )
        return _closed(nodes, config, "fused", context="context")

    attributes["kv_num_heads"] = config.num_kv_heads
    if config.sliding_window:
        attributes["local_window_size"] = config.sliding_window
    inputs = ["q", key, value, *_no_past(nodes)]
    if config.has_sinks:
        sinks = nodes.number("sinks", block.weights["sinks"])
        not_given = [""] * 4  # rotation, which has happened; positions; a bias
        inputs += [*not_given, sinks]
    nodes.add(
        "GroupQueryAttention",
        inputs,
        "context",
        "present_key",
        "present_value",
        domain=FUSED_DOMAIN,
        **attributes,
    )
    return _closed(nodes, config, "fused", context="context")


def _repeated(nodes: Nodes, config: AttentionConfig, source: str, width: int) -> str:
    """Give every query head its own copy of the heads of keys or values that it shares."""
    group = config.num_heads // config.num_kv_heads
    nodes.integer(f"{source}_split", [0, 0, config.num_kv_heads, 1, width])
    nodes.integer(f"{source}_times", [1, 1, 1, group, 1])
    nodes.integer(f"{source}_merged", [0, 0, config.num_heads * width])
    nodes.add("Reshape", [source, f"{source}_split"], f"{source}_shared")
    nodes.add("Expand", [f"{source}_shared", f"{source}_times"], f"{source}_copied")
    return nodes.add("Reshape", [f"{source}_copied", f"{source}_merged"], f"{source}_repeated")


def _no_past(nodes: Nodes) -> list[str]:
    """GroupQueryAttention's inputs that say: no past, and as many valid keys as there are.

    These lengths are derived here and never taken from a client: the operator reads out of bounds
    when they lie.
    """
    nodes.add("Shape", ["projected_key"], "batch_size", start=0, end=1)
    nodes.add("Shape", ["projected_key"], "kv_seq_len_1d", start=1, end=2)
    nodes.integer("one", 1)
    nodes.add("Sub", ["kv_seq_len_1d", "one"], "last_key")
    nodes.add("Cast", ["last_key"], "last_key_int32", to=TensorProto.INT32)
    nodes.add("Expand", ["last_key_int32", "batch_size"], "last_keys")
    nodes.add("Squeeze", ["kv_seq_len_1d"], "kv_seq_len_scalar")
    nodes.add("Cast", ["kv_seq_len_scalar"], "total_seq_len", to=TensorProto.INT32)
    return ["", "", "last_keys", "total_seq_len"]


def explicit_branch(nodes: Nodes, block: AttentionBlock, *, is_masked: bool) -> onnx.GraphProto:
    """The explicit attention as a branch."""
    explicit_attention(nodes, block, is_masked=is_masked)
    name = "masked" if is_masked else "unmasked"
    return _closed(nodes, block.config, name, context="context", attn_weights="weights")


def explicit_attention(nodes: Nodes, block: AttentionBlock, *, is_masked: bool) -> None:
    """MatMul, scale, mask, Softmax, MatMul, under names a person can follow in a graph viewer.

    Names ``context`` and ``weights``. Without a mask there is no past either: what most small
    requests for weights run is short.
    """
    config, heads = block.config, Heads()
    group = config.num_heads // config.num_kv_heads
    heads_of = _all_heads if is_masked else _own_heads
    _split_queries(nodes, config)
    keys = heads_of(nodes, config, "key")
    values = heads_of(nodes, config, "value")
    if group > 1 or config.depends_on_index:
        nodes.add("Shape", [keys], "kv_seq_len", start=2, end=3)
    nodes.add("Transpose", [keys], "keys_transposed", perm=[0, 1, 3, 2])
    nodes.add("MatMul", ["q_rows", "keys_transposed"], "products")
    products, rows = "products", "weights"
    if group > 1:
        products = _regrouped(nodes, products, config.num_heads, "products_by_head")
    scores = scale_and_cap(nodes, config, products)
    bias = _bias(nodes, block, is_masked=is_masked)
    softmax(nodes, block, scores, bias, heads, is_masked=is_masked)
    if group > 1:
        rows = _regrouped(nodes, rows, config.num_kv_heads, "weights_rows")
    nodes.add("MatMul", [rows, values], "context_rows")
    context = "context_rows"
    if group > 1:
        nodes.integer("context_heads_shape", [0, config.num_heads, -1, config.v_head_dim])
        context = nodes.add("Reshape", [context, "context_heads_shape"], "context_heads")
    nodes.add("Transpose", [context], "context_split", perm=[0, 2, 1, 3])
    nodes.integer("context_shape", [0, 0, config.context_dim])
    nodes.add("Reshape", ["context_split", "context_shape"], "context")


def _split_queries(nodes: Nodes, config: AttentionConfig) -> None:
    """Bring the queries into the shape of one product for each head of keys: ``q_rows``."""
    group = config.num_heads // config.num_kv_heads
    if group == 1:
        nodes.integer("q_split_shape", [0, 0, config.num_heads, config.head_dim])
        nodes.add("Reshape", ["q", "q_split_shape"], "q_split")
        nodes.add("Transpose", ["q_split"], "q_rows", perm=[0, 2, 1, 3])
        return
    # query heads that share a head of keys become more rows for it
    nodes.integer("q_split_shape", [0, 0, config.num_kv_heads, group, config.head_dim])
    nodes.integer("q_rows_shape", [0, config.num_kv_heads, -1, config.head_dim])
    nodes.add("Reshape", ["q", "q_split_shape"], "q_split")
    nodes.add("Transpose", ["q_split"], "q_heads", perm=[0, 2, 3, 1, 4])
    nodes.add("Reshape", ["q_heads", "q_rows_shape"], "q_rows")


def _all_heads(nodes: Nodes, config: AttentionConfig, name: str) -> str:
    """Keys (or values) of an earlier run, then this one's: (batch, kv heads, keys, width)."""
    own = _own_heads(nodes, config, name)
    return nodes.add("Concat", [f"past_{name}", own], f"{name}s", axis=2)


def _own_heads(nodes: Nodes, config: AttentionConfig, name: str) -> str:
    """Keys (or values) of this run: (batch, kv heads, keys, width)."""
    width = config.head_dim if name == "key" else config.v_head_dim
    nodes.integer(f"{name}_split_shape", [0, 0, config.num_kv_heads, width])
    nodes.add("Reshape", [f"projected_{name}", f"{name}_split_shape"], f"{name}_split")
    return nodes.add("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])


def _regrouped(nodes: Nodes, source: str, num_heads: int, output: str) -> str:
    """Share the rows of a score matrix out to another number of heads; no copy."""
    nodes.integer(f"{output}_heads", [0, num_heads, -1])
    nodes.add("Concat", [f"{output}_heads", "kv_seq_len"], f"{output}_shape", axis=0)
    return nodes.add("Reshape", [source, f"{output}_shape"], output)


def instrument_branch(nodes: Nodes, block: AttentionBlock) -> onnx.GraphProto:
    """Attention weights of chosen heads at a chosen stage, averaged and cut to the top; no context.

    Takes attn_mask, which must not be empty here: zeros of (1, 1, 1, 1) mask nothing.
    """
    config, heads = block.config, Heads("heads")
    keys = _all_heads(nodes, config, "key")
    nodes.add("Shape", [keys], "kv_seq_len", start=2, end=3)
    nodes.integer("q_split_shape", [0, 0, config.num_heads, config.head_dim])
    nodes.integer("group", config.num_heads // config.num_kv_heads)
    nodes.add("Div", ["heads", "group"], "kv_heads")
    nodes.add("Reshape", ["q", "q_split_shape"], "q_split")
    nodes.add("Transpose", ["q_split"], "q_heads", perm=[0, 2, 1, 3])
    nodes.add("Gather", ["q_heads", "heads"], "q_chosen", axis=1)
    nodes.add("Gather", [keys, "kv_heads"], "k_chosen", axis=1)
    nodes.add("Transpose", ["k_chosen"], "k_chosen_transposed", perm=[0, 1, 3, 2])
    nodes.add("MatMul", ["q_chosen", "k_chosen_transposed"], "products")
    scale_and_cap(nodes, config, "products")
    terms = [_mask_of_heads(nodes), *biases(nodes, block, "kv_seq_len", heads)]
    bias = _sum(nodes, terms)
    assert bias is not None
    _at_stage(nodes, block, bias, heads)
    _averaged(nodes)
    _cut_to_top(nodes)
    return _closed(
        nodes, config, "instrument", attn_weights="weights_wanted", top_keys="keys_wanted"
    )


def _mask_of_heads(nodes: Nodes) -> str:
    """The mask's rows for the chosen heads, or its only row for all of them."""
    nodes.add("Shape", ["attn_mask"], "mask_heads", start=1, end=2)
    nodes.integer("one_1d", [1])
    nodes.add("Sub", ["mask_heads", "one_1d"], "last_mask_head")
    nodes.add("Min", ["heads", "last_mask_head"], "mask_heads_chosen")
    return nodes.add("Gather", ["attn_mask", "mask_heads_chosen"], "mask_chosen", axis=1)


def _at_stage(nodes: Nodes, block: AttentionBlock, bias: str, heads: Heads) -> None:
    """Name the scores ``staged`` as they are, masked, or after softmax."""
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
    """Name the mean over the heads ``averaged`` if it is wanted, the heads themselves if not."""
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
    """Name the largest weights of each row and their keys, or all weights and no keys."""
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


def _bias(nodes: Nodes, block: AttentionBlock, *, is_masked: bool) -> str | None:
    """Everything that is added to the scores; None if nothing is."""
    terms = biases(nodes, block, "kv_seq_len", Heads())
    if is_masked:
        terms.insert(0, "attn_mask")
    return _sum(nodes, terms)


def _sum(nodes: Nodes, terms: list[str]) -> str | None:
    if len(terms) < 2:
        return terms[0] if terms else None
    total = terms[0]
    for number, term in enumerate(terms[1:], start=1):
        total = nodes.add("Add", [total, term], f"bias_{number}")
    return total


def _closed(
    nodes: Nodes,
    config: AttentionConfig,
    name: str,
    *,
    context: str | None = None,
    attn_weights: str | None = None,
    top_keys: str | None = None,
) -> onnx.GraphProto:
    """Close a branch; what it does not compute is empty."""
    number_type = nodes.number_type
    if context is None:
        none = nodes.number("none_3d", np.zeros((0, 0, config.context_dim)))
        context = nodes.add("Identity", [none], "no_context")
    if attn_weights is None:
        none = nodes.number("none_4d", np.zeros((0, 0, 0, 0)))
        attn_weights = nodes.add("Identity", [none], "no_attn_weights")
    if top_keys is None:
        none = nodes.array("no_keys", np.zeros((0, 0, 0, 0), np.int32))
        top_keys = nodes.add("Identity", [none], "no_top_keys")
    outputs = {context: number_type, attn_weights: number_type, top_keys: TensorProto.INT32}
    return nodes.closed(name, outputs)
