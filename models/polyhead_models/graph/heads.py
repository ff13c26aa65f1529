"""Steps on queries and keys between projection and comparison: norm and rotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes
    from polyhead_models.rotary import Rotary

__all__ = ["angles", "normalise", "rotate"]


def normalise(
    nodes: Nodes, block: AttentionBlock, name: str, source: str, output: str, *, num_heads: int
) -> str:
    """Add RMSNorm of every head; the shape stays (batch_size, seq_len, heads side by side)."""
    config = block.config
    split = nodes.integer(f"{name}_split_shape", [0, 0, num_heads, config.head_dim])
    nodes.add("Reshape", [source, split], f"{name}_split")
    weight = nodes.number(f"{name}.weight", block.weights[f"{name}.weight"])
    nodes.add(
        "RMSNormalization",
        [f"{name}_split", weight],
        f"{name}_heads",
        axis=-1,
        epsilon=config.qk_norm_eps,
    )
    merged = nodes.integer(f"{name}_merged_shape", [0, 0, num_heads * config.head_dim])
    return nodes.add("Reshape", [f"{name}_heads", merged], output)


def angles(nodes: Nodes, rotary: Rotary, positions: str) -> tuple[str, str]:
    """Cosines and sines of the positions' rotations: two of (batch_size, seq_len, dim / 2)."""
    prefix = positions.removesuffix("s")
    # float32 for every precision, because float16 cannot represent all positions above 2048
    nodes.add("Cast", [positions], f"{prefix}_float", to=TensorProto.FLOAT)
    nodes.integer(f"{prefix}_last_axis", [-1])
    nodes.add("Unsqueeze", [f"{prefix}_float", f"{prefix}_last_axis"], f"{prefix}_upright")
    nodes.add("Mul", [f"{prefix}_upright", _frequencies(nodes, rotary, prefix)], f"{prefix}_angles")
    results = []
    for function in ("Cos", "Sin"):
        result = nodes.add(function, [f"{prefix}_angles"], f"{prefix}_{function.lower()}")
        if rotary.attention_factor != 1.0:
            factor = nodes.array(f"{result}_factor", np.array(rotary.attention_factor, np.float32))
            result = nodes.add("Mul", [result, factor], f"{result}_scaled")
        if nodes.is_narrow:
            result = nodes.add("Cast", [result], f"{result}_narrow", to=nodes.number_type)
        results.append(result)
    return results[0], results[1]


def _frequencies(nodes: Nodes, rotary: Rotary, prefix: str) -> str:
    """Radians that each pair turns per position: (dim / 2,)."""
    if rotary.scaling == "dynamic":
        return _dynamic_frequencies(nodes, rotary, prefix)
    frequencies = nodes.array(f"{prefix}_frequencies", rotary.inverse_frequencies())
    if rotary.scaling != "longrope":
        return frequencies
    long_frequencies = np.array(rotary.long_pair_frequencies, np.float32)
    long = nodes.array(f"{prefix}_frequencies_long", long_frequencies)
    limit = nodes.integer(f"{prefix}_limit", rotary.original_max_positions)
    nodes.add("GreaterOrEqual", ["max_position", limit], f"{prefix}_is_long")
    return nodes.add(
        "Where", [f"{prefix}_is_long", long, frequencies], f"{prefix}_frequencies_used"
    )


def _dynamic_frequencies(nodes: Nodes, rotary: Rotary, prefix: str) -> str:
    """Compute the frequencies by the length of the call, in the order of transformers' code."""

    def number(name: str, value: float) -> str:
        return nodes.array(f"{prefix}_{name}", np.array(value, np.float32))

    def step(op_type: str, first: str, second: str, name: str) -> str:
        return nodes.add(op_type, [first, second], f"{prefix}_{name}")

    original = rotary.original_max_positions
    limit = nodes.integer(f"{prefix}_limit", original)
    is_long = step("GreaterOrEqual", "max_position", limit, "is_long")
    last = nodes.add("Cast", ["max_position"], f"{prefix}_last", to=TensorProto.FLOAT)
    one = number("one", 1.0)
    length = step("Add", last, one, "length")
    grown = step("Mul", length, number("factor", rotary.factor), "length_grown")
    ratio = step("Div", grown, number("original", original), "ratio")
    growth = step("Sub", ratio, number("factor_less_one", rotary.factor - 1), "growth_if_long")
    growth = nodes.add("Where", [is_long, growth, one], f"{prefix}_growth")
    exponent = number("growth_exponent", rotary.dim / (rotary.dim - 2))
    stretched = step("Pow", growth, exponent, "stretch")
    theta = step("Mul", stretched, number("theta", rotary.theta), "theta_used")
    exponents = nodes.array(
        f"{prefix}_exponents", (np.arange(0, rotary.dim, 2) / rotary.dim).astype(np.float32)
    )
    wavelengths = step("Pow", theta, exponents, "wavelengths")
    return nodes.add("Reciprocal", [wavelengths], f"{prefix}_frequencies_used")


def rotate(
    nodes: Nodes,
    rotary: Rotary,
    source: str,
    turns: tuple[str, str],
    output: str,
    *,
    num_heads: int,
) -> str:
    """Rotate the pairs of every head's leading dimensions by the positions' angles."""
    return nodes.add(
        "RotaryEmbedding",
        [source, *turns],
        output,
        num_heads=num_heads,
        rotary_embedding_dim=rotary.dim,
        interleaved=int(rotary.is_interleaved),
    )
