"""Linear maps, in the block's precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from polyhead_models.quantization import LARGEST_TOKEN, quantized_weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock
    from polyhead_models.graph.nodes import Nodes

__all__ = ["multiply_int8", "project"]

ZERO_POINT = 128


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

    Each token has its own scale, so that its result does not depend on the other tokens. The source
    is unsigned around a zero of 128 and the weight is signed, which is ONNX Runtime's fastest pair.
    """
    width, num_outputs = weight.shape
    quantized, scale = quantized_weight(weight)
    nodes.array(f"{name}.weight_int8", quantized)
    nodes.number(f"{name}.weight_scale", scale)
    nodes.array(f"{name}.zero_point", np.array(ZERO_POINT, np.uint8))
    nodes.integer(f"{name}.rows", [-1, width])
    nodes.integer(f"{name}.last_axis", [1])
    nodes.integer(f"{name}.num_outputs", [num_outputs])
    nodes.number(f"{name}.step", 1.0 / LARGEST_TOKEN)
    nodes.number(f"{name}.smallest", np.finfo(np.float32).tiny)
    token, last_axis = f"{name}_token", f"{name}.last_axis"
    rows = nodes.add("Reshape", [source, f"{name}.rows"], f"{token}_rows")
    nodes.add("Abs", [rows], f"{token}_magnitudes")
    nodes.add("ReduceMax", [f"{token}_magnitudes", last_axis], f"{token}_largest", keepdims=0)
    nodes.add("Mul", [f"{token}_largest", f"{name}.step"], f"{token}_steps")
    scales = nodes.add("Max", [f"{token}_steps", f"{name}.smallest"], f"{token}_scale")
    nodes.add("Shape", [scales], f"{token}_count")
    zero_points = nodes.add("Expand", [f"{name}.zero_point", f"{token}_count"], f"{token}_zeros")
    factor = nodes.add("QuantizeLinear", [rows, scales, zero_points], f"{token}_uint8", axis=0)
    factors = [factor, f"{name}.weight_int8", f"{name}.zero_point"]
    nodes.add("MatMulInteger", factors, f"{name}_int32")
    nodes.add("Cast", [f"{name}_int32"], f"{name}_float", to=TensorProto.FLOAT)
    nodes.add("Unsqueeze", [scales, last_axis], f"{token}_scales")
    nodes.add("Mul", [f"{name}_float", f"{token}_scales"], f"{name}_per_output")
    nodes.add("Mul", [f"{name}_per_output", f"{name}.weight_scale"], f"{name}_rows")
    nodes.add("Shape", [source], f"{token}_axes", start=0, end=2)
    nodes.add("Concat", [f"{token}_axes", f"{name}.num_outputs"], f"{name}_shape", axis=0)
    nodes.add("Reshape", [f"{name}_rows", f"{name}_shape"], product)
