"""ONNX files that load for ever, or for as long as a test wants."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def slow_to_load(num_products=12, size=1500):
    """Make a graph of products of constants, which ONNX Runtime computes when it loads them.

    It looks at no flag meanwhile, so nothing can end the load. One product takes about 0.1 s.
    """
    names = ["w", *(f"product{number}" for number in range(num_products))]
    nodes = [
        helper.make_node("MatMul", [before, "w"], [after]) for before, after in pairwise(names)
    ]
    nodes.append(helper.make_node("ReduceSum", [names[-1]], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "sum"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    weights = numpy_helper.from_array(np.ones((size, size), np.float32), "w")
    graph = helper.make_graph(nodes, "slow", [x], [y], [weights])
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=8, opset_imports=[opset]).SerializeToString()
