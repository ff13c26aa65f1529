"""Linear maps, in the block's precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from polyhead_models.quantization import LARGEST_UINT8, quantized_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes

__all__ = ["multiply_int8", "project"]


def project(nodes: Nodes, block: AttentionBlock, name: str, source: str, output: str) -> str:
    """Apply the linear map ``name``: ``source @ weight.T + bias``."""
    has_bias = f"{name}.bias" in block.weights
    product = f"{output}_unbiased" if has_bias else output
    weight = block.weights[f"{name}.weight"].T
    if block.config.precision == "int8":
        multiply_int8(nodes, weight, name, source, product)
    else:
        nodes.add("MatMul", [source, nodes.number(f"{name}.weight", weight)], product)
    if has_bias:
        bias = nodes.number(f"{name}.bias", block.weights[f"{name}.bias"])
        nodes.add("Add", [product, bias], output)
    return output


def multiply_int8(
    nodes: Nodes, weight: NDArray[np.float32], name: str, source: str, product: str
) -> None:
    """Multiply 8-bit integers: the weight rounded per output, the source rounded per token.

    Each token has its own scale and zero, so that its result does not depend on the other tokens.
    The source is unsigned and the weight signed, which is ONNX Runtime's fastest pair.
    quantization.product does the same in NumPy.
    """
    width, num_outputs = weight.shape
    integers, scale = quantized_weight(weight)
    nodes.array(f"{name}.weight_int8", integers)
    nodes.number(f"{name}.weight_scale", scale)
    nodes.number(f"{name}.weight_sums", integers.sum(axis=0, dtype=np.int64))
    nodes.integer(f"{name}.rows", [-1, width])
    nodes.integer(f"{name}.last_axis", [1])
    nodes.integer(f"{name}.num_outputs", [num_outputs])
    nodes.number(f"{name}.zero", 0.0)
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
    nodes.add("MatMulInteger", [integers_in, f"{name}.weight_int8"], f"{name}_int32")
    steps = nodes.add("Cast", [f"{name}_int32"], f"{name}_float", to=TensorProto.FLOAT)
    # the zero is subtracted afterwards, because MatMulInteger takes only one for all tokens
    nodes.add("Unsqueeze", [shifts, last_axis], f"{token}_shifts")
    nodes.add("Mul", [f"{token}_shifts", f"{name}.weight_sums"], f"{name}_shift")
    steps = nodes.add("Add", [steps, f"{name}_shift"], f"{name}_shifted")
    nodes.add("Unsqueeze", [scales, last_axis], f"{token}_scales")
    nodes.add("Mul", [steps, f"{token}_scales"], f"{name}_per_output")
    nodes.add("Mul", [f"{name}_per_output", f"{name}.weight_scale"], f"{name}_rows")
    nodes.add("Shape", [source], f"{token}_axes", start=0, end=2)
    nodes.add("Concat", [f"{token}_axes", f"{name}.num_outputs"], f"{name}_shape", axis=0)
    # there may be no tokens, because keys can all come from the past
    nodes.add("Reshape", [f"{name}_rows", f"{name}_shape"], product, allowzero=1)
