"""Two branches of the graph: fused, and explicit (masked or not). The third is in instrument.py.

Each takes projected_query, projected_key and projected_value, (batch_size, seq_len, heads side by
side), from the surrounding graph, and outputs the context, attention weights and top keys.
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
    "all_heads",
    "closed_branch",
    "explicit_branch",
    "fused_branch",
    "total",
]

BRANCH_OUTPUTS = ("context", "attn_weights", "top_keys")


def fused_branch(nodes: Nodes, block: AttentionBlock) -> onnx.GraphProto:
    """Compute the context from the heads by one operator, if possible without a score matrix."""
    config = block.config
    key, value = "projected_key", "projected_value"
    if not config.is_causal and config.num_kv_heads < config.num_heads:
        # MultiHeadAttention does not support shared heads
        key = _repeated(nodes, config, key, config.head_dim)
        value = _repeated(nodes, config, value, config.v_head_dim)
    attributes: dict[str, Any] = {"num_heads": config.num_heads, "scale": config.scale}
    if not config.is_causal:
        nodes.add(
            "MultiHeadAttention",
            ["projected_query", key, value],
            "context",
            domain=FUSED_DOMAIN,
            **attributes,
        )
        return closed_branch(nodes, config, "fused", context="context")

    attributes["kv_num_heads"] = config.num_kv_heads
    if config.sliding_window:
        attributes["local_window_size"] = config.sliding_window
    inputs = ["projected_query", key, value, *_no_past(nodes)]
    if config.has_sinks:
        sinks = nodes.number("sinks", block.weights["sinks"])
        omitted = [""] * 4  # rotation, which is already done; positions; a bias
        inputs += [*omitted, sinks]
    nodes.add(
        "GroupQueryAttention",
        inputs,
        "context",
        "present_key",
        "present_value",
        domain=FUSED_DOMAIN,
        **attributes,
    )
    return closed_branch(nodes, config, "fused", context="context")


def _repeated(nodes: Nodes, config: AttentionConfig, source: str, width: int) -> str:
    """Copy the shared heads of keys or values, so that every query head has its own."""
    group = config.num_heads // config.num_kv_heads
    nodes.integer(f"{source}_split", [0, 0, config.num_kv_heads, 1, width])
    nodes.integer(f"{source}_times", [1, 1, 1, group, 1])
    nodes.integer(f"{source}_merged", [0, 0, config.num_heads * width])
    nodes.add("Reshape", [source, f"{source}_split"], f"{source}_shared")
    nodes.add("Expand", [f"{source}_shared", f"{source}_times"], f"{source}_copied")
    return nodes.add("Reshape", [f"{source}_copied", f"{source}_merged"], f"{source}_repeated")


def _no_past(nodes: Nodes) -> list[str]:
    """GroupQueryAttention's inputs for: no past, and all keys are valid.

    These lengths are derived from the arrays and never taken from a client, because the operator
    reads out of bounds if they are wrong.
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
    """Compute attention by MatMul, scale, mask, Softmax, MatMul, with names for a graph viewer.

    The branch without a mask takes no past either, which keeps small requests for weights short.
    """
    config, heads = block.config, Heads()
    group = config.num_heads // config.num_kv_heads
    heads_of = all_heads if is_masked else _own_heads
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
    name = "masked" if is_masked else "unmasked"
    return closed_branch(nodes, config, name, context="context", attn_weights="weights")


def _split_queries(nodes: Nodes, config: AttentionConfig) -> None:
    """Reshape the queries to ``q_rows``, for one product per head of keys."""
    group = config.num_heads // config.num_kv_heads
    if group == 1:
        nodes.integer("q_split_shape", [0, 0, config.num_heads, config.head_dim])
        nodes.add("Reshape", ["projected_query", "q_split_shape"], "q_split")
        nodes.add("Transpose", ["q_split"], "q_rows", perm=[0, 2, 1, 3])
        return
    # query heads that share a head of keys become rows of one product
    nodes.integer("q_split_shape", [0, 0, config.num_kv_heads, group, config.head_dim])
    nodes.integer("q_rows_shape", [0, config.num_kv_heads, -1, config.head_dim])
    nodes.add("Reshape", ["projected_query", "q_split_shape"], "q_split")
    nodes.add("Transpose", ["q_split"], "q_heads", perm=[0, 2, 3, 1, 4])
    nodes.add("Reshape", ["q_heads", "q_rows_shape"], "q_rows")


def all_heads(nodes: Nodes, config: AttentionConfig, name: str) -> str:
    """Keys (or values) of an earlier run, then of this run: (batch, kv heads, keys, width)."""
    own = _own_heads(nodes, config, name)
    return nodes.add("Concat", [f"past_{name}", own], f"{name}s", axis=2)


def _own_heads(nodes: Nodes, config: AttentionConfig, name: str) -> str:
    """Keys (or values) of this run: (batch, kv heads, keys, width)."""
    width = config.head_dim if name == "key" else config.v_head_dim
    nodes.integer(f"{name}_split_shape", [0, 0, config.num_kv_heads, width])
    nodes.add("Reshape", [f"projected_{name}", f"{name}_split_shape"], f"{name}_split")
    return nodes.add("Transpose", [f"{name}_split"], f"{name}_heads", perm=[0, 2, 1, 3])


def _regrouped(nodes: Nodes, source: str, num_heads: int, output: str) -> str:
    """Reshape the rows of a score matrix to another number of heads, without a copy."""
    nodes.integer(f"{output}_heads", [0, num_heads, -1])
    nodes.add("Concat", [f"{output}_heads", "kv_seq_len"], f"{output}_shape", axis=0)
    return nodes.add("Reshape", [source, f"{output}_shape"], output)


def _bias(nodes: Nodes, block: AttentionBlock, *, is_masked: bool) -> str | None:
    """Add up the biases and the mask, which are added to the scores; None without any."""
    terms = biases(nodes, block, "kv_seq_len", Heads())
    if is_masked:
        terms.insert(0, "attn_mask")
    return total(nodes, terms)


def total(nodes: Nodes, terms: list[str]) -> str | None:
    """Add all terms; None if the list is empty."""
    if len(terms) < 2:
        return terms[0] if terms else None
    total = terms[0]
    for number, term in enumerate(terms[1:], start=1):
        total = nodes.add("Add", [total, term], f"bias_{number}")
    return total


def closed_branch(
    nodes: Nodes,
    config: AttentionConfig,
    name: str,
    *,
    context: str | None = None,
    attn_weights: str | None = None,
    top_keys: str | None = None,
) -> onnx.GraphProto:
    """Close a branch; outputs that it does not compute are empty."""
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
