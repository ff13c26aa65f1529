"""Linear maps, in the block's precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from polyhead_models.graph.nodes import FUSED_DOMAIN
from polyhead_models.quantization import LARGEST_UINT8, quantized_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes

__all__ = ["multiply_int8", "project"]


def project(nodes: Nodes, block: AttentionBlock, name: str, source: str, output: str) -> str:
    """Apply the linear map ``name``: ``source @ weight.T + bias``."""
    weight, bias = block.weights[f"{name}.weight"].T, block.weights.get(f"{name}.bias")
    if block.config.precision == "int8":
        return multiply_int8(nodes, weight, bias, name=name, source=source, output=output)
    product = output if bias is None else f"{output}_unbiased"
    nodes.add("MatMul", [source, nodes.number(f"{name}.weight", weight)], product)
    if bias is not None:
        nodes.add("Add", [product, nodes.number(f"{name}.bias", bias)], output)
    return output


def multiply_int8(
    nodes: Nodes,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    *,
    name: str,
    source: str,
    output: str,
) -> str:
    """Apply a linear map in 8-bit integers: a weight rounded per output, a source per token.

    Each token has its own scale and zero, so that its result does not depend on the other tokens.
    The source is unsigned and the weight signed, which is ONNX Runtime's fastest pair.
    quantization.product does the same in NumPy.
    """
    width, num_outputs = weight.shape
    integers, scale = quantized_weight(weight)
    nodes.array(f"{name}.weight_int8", integers)
    nodes.number(f"{name}.weight_scale", scale)
    sums = integers.sum(axis=0, dtype=np.int64) * scale.astype(np.float64)
    nodes.number(f"{name}.rest", [sums, np.zeros(num_outputs) if bias is None else bias])
    nodes.integer(f"{name}.rows", [-1, width])
    nodes.integer(f"{name}.last_axis", [1])
    nodes.integer(f"{name}.num_outputs", [num_outputs])
    nodes.number(f"{name}.zero", 0.0)
    nodes.number(f"{name}.one", 1.0)
    nodes.integer(f"{name}.column_of_ones", [0, 0, 0, 1])
    nodes.number(f"{name}.step", 1.0 / LARGEST_UINT8)
    nodes.number(f"{name}.smallest", np.finfo(np.float32).tiny)
    token, last_axis, zero = f"{name}_token", f"{name}.last_axis", f"{name}.zero"
    rows = nodes.add("Reshape", [source, f"{name}.rows"], f"{token}_rows")
    nodes.add("ReduceMax", [rows, last_axis], f"{token}_largest", keepdims=0)
    nodes.add("ReduceMin", [rows, last_axis], f"{token}_least", keepdims=0)
    high = nodes.add("Max", [f"{token}_largest", zero], f"{token}_high")
    low = nodes.add("Min", [f"{token}_least", zero], f"{token}_low")
    nodes.add("Sub", [high, low], f"{token}_range")
    nodes.add("Mul", [f"{token}_range", f"{name}.step"], f"{token}_step")
    scales = nodes.add("Max", [f"{token}_step", f"{name}.smallest"], f"{token}_scale")
    nodes.add("Div", [low, scales], f"{token}_shift")
    shifts = nodes.add("Round", [f"{token}_shift"], f"{token}_shift_rounded")
    nodes.add("Neg", [shifts], f"{token}_zero")
    zeros = nodes.add("Cast", [f"{token}_zero"], f"{token}_zero_uint8", to=TensorProto.UINT8)
    integers_in = nodes.add("QuantizeLinear", [rows, scales, zeros], f"{token}_uint8", axis=0)
    factors = [integers_in, f"{name}.weight_int8", f"{name}.one", f"{name}.weight_scale"]
    nodes.add("MatMulIntegerToFloat", factors, f"{name}_per_output", domain=FUSED_DOMAIN)
    nodes.add("Unsqueeze", [scales, last_axis], f"{token}_scales")
    scaled = nodes.add("Mul", [f"{name}_per_output", f"{token}_scales"], f"{name}_scaled")
    # the tokens' zeros are taken off afterwards, because the product takes only one for all tokens
    nodes.add("Mul", [shifts, scales], f"{token}_offset")
    nodes.add("Unsqueeze", [f"{token}_offset", last_axis], f"{token}_offsets")
    pads = [f"{token}_offsets", f"{name}.column_of_ones", f"{name}.one"]
    nodes.add("Pad", pads, f"{token}_offsets_and_ones")
    nodes.add("Gemm", [f"{token}_offsets_and_ones", f"{name}.rest", scaled], f"{name}_rows")
    nodes.add("Shape", [source], f"{token}_axes", start=0, end=2)
    nodes.add("Concat", [f"{token}_axes", f"{name}.num_outputs"], f"{name}_shape", axis=0)
    # there may be no tokens, because keys can all come from the past
    nodes.add("Reshape", [f"{name}_rows", f"{name}_shape"], output, allowzero=1)
    return output
