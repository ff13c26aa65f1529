"""Activation functions by the names that transformers gives them, as chains of operators."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

__all__ = ["ACTIVATIONS", "Activation", "Operator"]


class Operator(NamedTuple):
    """An operator of ONNX, applied to the result of the one before it."""

    op_type: str
    numbers: tuple[float, ...] = ()
    """Its inputs after the first."""
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed


class Activation(NamedTuple):
    """An activation function without trained parameters."""

    operators: tuple[Operator, ...]
    is_gate: bool = False
    """Whether the result is multiplied by the first operator's input, as in x * sigmoid(x)."""


def _chain(*operators: Operator) -> Activation:
    return Activation(operators)


def _gate(*operators: Operator) -> Activation:
    return Activation(operators, is_gate=True)


_GELU = Operator("Gelu")
_GELU_TANH = _chain(Operator("Gelu", attributes={"approximate": "tanh"}))
_RELU, _SIGMOID, _SOFTPLUS, _TANH = map(Operator, ("Relu", "Sigmoid", "Softplus", "Tanh"))

ACTIVATIONS: dict[str, Activation] = {
    "gelu": _chain(_GELU),
    "gelu_python": _chain(_GELU),
    "gelu_10": _chain(_GELU, Operator("Clip", (-10.0, 10.0))),
    "gelu_new": _GELU_TANH,
    "gelu_fast": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "gelu_python_tanh": _GELU_TANH,
    "gelu_accurate": _GELU_TANH,
    "quick_gelu": _gate(Operator("Mul", (1.702,)), _SIGMOID),
    "silu": _gate(_SIGMOID),
    "swish": _gate(_SIGMOID),
    "mish": _gate(_SOFTPLUS, _TANH),
    "hardswish": _chain(Operator("HardSwish")),
    "relu": _chain(_RELU),
    "relu2": _chain(_RELU, Operator("Pow", (2.0,))),
    "relu6": _chain(Operator("Clip", (0.0, 6.0))),
    "leaky_relu": _chain(Operator("LeakyRelu", attributes={"alpha": 0.01})),
    "laplace": _chain(
        Operator("Sub", (0.707107,)),
        Operator("Div", (0.282095 * math.sqrt(2),)),
        Operator("Erf"),
        Operator("Add", (1.0,)),
        Operator("Mul", (0.5,)),
    ),
    "sqrtsoftplus": _chain(_SOFTPLUS, Operator("Sqrt")),
    "linear": _chain(),
    "tanh": _chain(_TANH),
    "sigmoid": _chain(_SIGMOID),
}
