"""Writes a block as a plain ONNX graph, for servers of arbitrary models.

The exported file takes query, key and value, and has optional inputs. This graph computes the same,
but takes only a query, so that requests to peers are not larger than those to polyhead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

    from polyhead_models.blocks import AttentionBlock

__all__ = ["plain_graph"]

BATCH, TOKENS = "batch_size", "seq_len"
OPSET, IR_VERSION = 17, 8


def plain_graph(block: AttentionBlock) -> bytes:
    """Serialize a float32 block of plain multi-head attention as an ONNX file."""
    config = block.config
    width, heads, head_dim = config.embed_dim, config.num_heads, config.head_dim
    constants = {
        "by_head": np.array([0, 0, heads, head_dim]),
        "together": np.array([0, 0, heads * head_dim]),
        "scale": np.float32(1 / math.sqrt(head_dim)),
    }
    nodes: list[NodeProto] = []

    def add(op_type: str, inputs: list[str], output: str, **attributes: int | list[int]) -> str:
        node = helper.make_node(op_type, inputs, [output])
        node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
        nodes.append(node)
        return output

    def project(name: str, source: str, output: str) -> str:
        constants[f"{name}.weight"] = block.weights[f"{name}.weight"].T.copy()
        constants[f"{name}.bias"] = block.weights[f"{name}.bias"]
        product = add("MatMul", [source, f"{name}.weight"], f"{name}.product")
        return add("Add", [product, f"{name}.bias"], output)

    def by_head(name: str, axes: list[int]) -> str:
        split = add("Reshape", [project(name, "query", f"{name}.all"), "by_head"], f"{name}.split")
        return add("Transpose", [split], f"{name}.by_head", perm=axes)

    query, value = (by_head(name, [0, 2, 1, 3]) for name in ("q_proj", "v_proj"))
    products = add("MatMul", [query, by_head("k_proj", [0, 2, 3, 1])], "products")
    scores = add("Mul", [products, "scale"], "scores")
    attn_weights = add("Softmax", [scores], "attn_weights", axis=-1)
    context = add("MatMul", [attn_weights, value], "context")
    context = add("Transpose", [context], "context.side_by_side", perm=[0, 2, 1, 3])
    project("out_proj", add("Reshape", [context, "together"], "context.together"), "output")

    def values(name: str, *shape: str | int) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "attention",
        [values("query", BATCH, TOKENS, width)],
        [
            values("output", BATCH, TOKENS, width),
            values("attn_weights", BATCH, heads, TOKENS, TOKENS),
        ],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
