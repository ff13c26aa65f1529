"""Activation functions, computed as transformers defines them."""

import math

import numpy as np
import onnx
import pytest
from onnx import helper
from ort_sessions import loaded

from polyhead_models.graph.model import IR_VERSION, OPSET
from polyhead_models.graph.nodes import Nodes
from polyhead_models.whole.activations import ACTIVATIONS
from polyhead_models.whole.layers import LayerBuilder

X = np.linspace(-30, 30, 601)
ERF = np.vectorize(math.erf)
SOFTPLUS = np.logaddexp(X, 0)
SIGMOID = 1 / (1 + np.exp(-X))
GELU = X * (1 + ERF(X / math.sqrt(2))) / 2
GELU_TANH = X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))) / 2
EXPECTED = {
    "gelu": GELU,
    "gelu_python": GELU,
    "gelu_10": GELU.clip(-10, 10),
    "gelu_new": GELU_TANH,
    "gelu_fast": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "gelu_python_tanh": GELU_TANH,
    "gelu_accurate": GELU_TANH,
    "quick_gelu": X / (1 + np.exp(-1.702 * X)),
    "silu": X * SIGMOID,
    "swish": X * SIGMOID,
    "mish": X * np.tanh(SOFTPLUS),
    "hardswish": X * (X + 3).clip(0, 6) / 6,
    "relu": X.clip(0),
    "relu2": X.clip(0) ** 2,
    "relu6": X.clip(0, 6),
    "leaky_relu": np.where(X < 0, 0.01 * X, X),
    "laplace": (1 + ERF((X - 0.707107) / (0.282095 * math.sqrt(2)))) / 2,
    "sqrtsoftplus": np.sqrt(SOFTPLUS),
    "linear": X,
    "tanh": np.tanh(X),
    "sigmoid": SIGMOID,
}


def builder_of(dtype):
    """Return what adds activations to a graph, and the graph."""
    graph = onnx.GraphProto(name="activations")
    nodes = Nodes(dtype, graph)
    graph.input.append(helper.make_tensor_value_info("x", nodes.number_type, [len(X)]))
    return LayerBuilder(nodes, tensors=None), graph, nodes


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2e-6), ("float16", 2e-3)])
def test_every_activation_is_that_of_transformers(dtype, error):
    builder, graph, nodes = builder_of(dtype)
    for name in ACTIVATIONS:
        builder.add("Identity", builder.activation("x", name), output=name)
        graph.output.append(helper.make_tensor_value_info(name, nodes.number_type, None))
    model = onnx.ModelProto(ir_version=IR_VERSION, graph=graph)
    model.opset_import.append(helper.make_opsetid("", OPSET))
    results = loaded(model.SerializeToString()).run([*EXPECTED], {"x": X.astype(dtype)})
    assert {*ACTIVATIONS} == {*EXPECTED}
    for name, result in zip(EXPECTED, results, strict=True):
        np.testing.assert_allclose(result, EXPECTED[name], rtol=error, atol=error, err_msg=name)
