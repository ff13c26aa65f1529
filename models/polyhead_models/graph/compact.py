"""A second graph of small blocks: self-attention of short sequences, in half a dozen nodes.

Input ``query``, (batch_size, seq_len, embed_dim), which is key and value as well; outputs
``output`` and ``attn_weights``. One product makes queries, keys and values, and the standard's
Attention operator does the rest, score matrix and all.

Every node, every input and above all an ``If`` takes ONNX Runtime as long as such a block's matrix
products. One thread of a CPU with AVX2, ONNX Runtime 1.32, the graph of model.py against this one:
10 tokens of width 6 with weights took 42 us, and take 21; 8 sequences of 16 tokens, width 64, 4
heads, without weights, 155 us and 113. The gain ends at about 128 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.graph.projection import project

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes

__all__ = ["compact_attention", "has_compact_graph"]

_MAX_BYTES = 256 << 10
"""Larger weights are not written twice; their products take longer than what would be saved."""
_AFTER_SOFTMAX = 3
"""What the operator's fourth output holds, of qk_matmul_output_mode."""
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def has_compact_graph(block: AttentionBlock) -> bool:
    """Whether a block is small, and its attention what the standard's operator computes."""
    config = block.config
    takes_one_input = config.has_in_proj and config.kdim == config.vdim == config.embed_dim
    adds_to_scores = config.sliding_window or config.has_alibi or config.relative_buckets
    changes_heads = config.rotary or config.qk_norm_eps
    is_plain = not (adds_to_scores or changes_heads or config.softcap or config.has_sinks)
    size = sum(weight.nbytes for weight in block.weights.values())
    is_small = config.precision == "float32" and size <= _MAX_BYTES
    return takes_one_input and is_plain and is_small


def compact_attention(nodes: Nodes, block: AttentionBlock) -> None:
    """From ``query`` to ``output`` and ``attn_weights``."""
    config = block.config
    heads = _project_together(nodes, block)
    widths = nodes.integer("widths", [config.q_proj_dim, config.k_proj_dim, config.v_proj_dim])
    nodes.add("Split", [heads, widths], "q", "k", "v", axis=2)
    nodes.add(
        "Attention",
        ["q", "k", "v"],
        "context" if config.has_out_proj else "output",
        *("", ""),  # keys and values for a later run
        "attn_weights",
        q_num_heads=config.num_heads,
        kv_num_heads=config.num_kv_heads,
        is_causal=int(config.is_causal),
        scale=config.scale,
        qk_matmul_output_mode=_AFTER_SOFTMAX,
    )
    if config.has_out_proj:
        project(nodes, block, "out_proj", "context", "output")


def _project_together(nodes: Nodes, block: AttentionBlock) -> str:
    """Queries, keys and values side by side, by one product."""
    weights = [block.weights[f"{name}.weight"] for name in _PROJECTIONS]
    stacked = nodes.number("in_proj.weight", np.concatenate(weights).T)
    product = nodes.add("MatMul", ["query", stacked], "heads_unbiased")
    if not any(f"{name}.bias" in block.weights for name in _PROJECTIONS):
        return product
    biases = [
        block.weights.get(f"{name}.bias", np.zeros(len(weight), weight.dtype))
        for name, weight in zip(_PROJECTIONS, weights, strict=True)
    ]
    return nodes.add(
        "Add", [product, nodes.number("in_proj.bias", np.concatenate(biases))], "heads"
    )
