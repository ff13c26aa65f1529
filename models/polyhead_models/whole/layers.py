"""Norms, linear maps and activations as nodes, with weights read from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.graph.projection import multiply_int8

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.checkpoint.designs.design import FeedForward, Norm
    from polyhead_models.checkpoint.files import Tensors
    from polyhead_models.graph.nodes import Nodes

__all__ = ["ACTIVATIONS", "LayerBuilder", "Weights"]

_GELU_TANH = {"op_type": "Gelu", "approximate": "tanh"}
_SIGMOID_FACTORS = {"silu": 1.0, "swish": 1.0, "quick_gelu": 1.702}
"""Activations x * sigmoid(factor * x)."""
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "gelu": {"op_type": "Gelu"},
    "gelu_python": {"op_type": "Gelu"},
    **dict.fromkeys(["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate"], _GELU_TANH),
    "relu": {"op_type": "Relu"},
    "tanh": {"op_type": "Tanh"},
    "sigmoid": {"op_type": "Sigmoid"},
}
"""Operators by the names that transformers has for activations."""


_FORMER_NORM = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))


@dataclass(frozen=True)
class Weights:
    """The tensors of one stack, by their names without the stack's prefix."""

    tensors: Tensors
    prefix: str
    hidden_size: int
    """Width of the hidden states."""
    older: tuple[tuple[str, str], ...] = ()
    """Parts of names, and how other versions of transformers spell them."""

    def find(self, *names: str) -> str:
        """Return the full name of the first tensor that exists. Raises CheckpointError."""
        if found := self._first(names):
            return found
        raise CheckpointError(
            f"{self.tensors.origin} holds no tensor {self.prefix}{names[0]}; a whole model needs "
            "it, and a single layer's attention (--layer) does not"
        )

    def has(self, name: str) -> bool:
        """Whether there is such a tensor."""
        return bool(self._first((name,)))

    def _first(self, names: tuple[str, ...]) -> str:
        """Return the full name of the first tensor that exists; empty: there is none."""
        for name in names:
            other = name
            for part, older in (*self.older, *_FORMER_NORM):
                other = other.replace(part, older)
            for spelling in (name, other):
                for full in (f"{self.prefix}{spelling}", spelling):
                    if full in self.tensors.files:
                        return full
        return ""

    def shape(self, *names: str) -> tuple[int, ...]:
        """Return the shape of the first tensor that exists. Raises CheckpointError."""
        return self.tensors.shape(self.find(*names))

    def read(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read a tensor; a length of 0 stands for any. Raises CheckpointError."""
        return self.read_first((name,), *shape)

    def read_first(self, names: tuple[str, ...], *shape: int) -> NDArray[np.float32]:
        """Read the first tensor that exists. Raises CheckpointError as read does."""
        full = self.find(*names)
        found = self.tensors.shape(full)
        if len(found) == len(shape):
            shape = tuple(a or b for a, b in zip(shape, found, strict=True))
        return self.tensors.read(full, shape)


class LayerBuilder:
    """Adds layers' parts to a graph. Names of tensors may hold ``{layer}``."""

    def __init__(
        self, nodes: Nodes, weights: Weights, layer: str = "", int8: tuple[str, ...] = ()
    ) -> None:
        """``int8``: kinds of matrices that are int8, of MATRIX_KINDS."""
        self.nodes = nodes
        self._int8 = int8
        self._weights = weights
        self._layer = layer
        self._num_values = 0
        self._widths = dict.fromkeys(
            ("hidden_states", "attended", "attention_input"), weights.hidden_size
        )

    def add(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:  # noqa: ANN401 - the operator's attributes
        """Add a node with one output, and return the output's name."""
        return self.nodes.add(op_type, list(inputs), output or self._name(), **attributes)

    def number(self, value: object) -> str:
        """Add a constant of numbers."""
        return self.nodes.number(self._name(), value)

    def integer(self, value: object) -> str:
        """Add a constant of integers."""
        return self.nodes.integer(self._name(), value)

    def has(self, name: str) -> bool:
        """Whether the checkpoint has such a tensor."""
        return self._weights.has(self._full(name))

    def tensor(self, name: str, *shape: int) -> str:
        """Add a tensor of the checkpoint; a length of 0 stands for any."""
        return self.number(self._weights.read(self._full(name), *shape))

    def vector(self, name: str) -> str:
        """Add a vector of the hidden states' width."""
        return self.tensor(name, self._weights.hidden_size)

    def row(self, name: str) -> str:
        """Add a vector that the checkpoint may hold with more axes of length 1: (1, 1, width)."""
        *ones, _ = self._weights.shape(name)
        vector = self._weights.read(name, *(1 for _ in ones), self._weights.hidden_size)
        return self.number(vector.reshape(1, 1, -1))

    def read_table(self, name: str, length: int = 0) -> NDArray[np.float32]:
        """Read a table, a parameter or an embedding, that may have a first axis of length 1.

        ``length``: number of rows; 0: any.
        """
        name = name if self._weights.has(name) else f"{name}.weight"
        width = self._weights.hidden_size
        ones = (1 for _ in self._weights.shape(name)[2:])
        return self._weights.read(name, *ones, length, width).reshape(-1, width)

    def norm(self, source: str, norm: Norm | None) -> str:
        """Add a norm, if there is one."""
        if norm is None:
            return source
        name = self._full(norm.name)
        if norm.width:
            ones = self.number(np.ones(norm.width))
            return self.add("LayerNormalization", source, ones, axis=-1, epsilon=norm.eps)
        width = self._widths.get(source, 0)
        weight = self._weights.read(f"{name}.weight", width) + np.float32(norm.is_less_one)
        inputs = [source, self.number(weight)]
        if not norm.is_rms and self._weights.has(f"{name}.bias"):
            inputs.append(self.number(self._weights.read(f"{name}.bias", len(weight))))
        op_type = "RMSNormalization" if norm.is_rms else "LayerNormalization"
        return self.of_width(len(weight), self.add(op_type, *inputs, axis=-1, epsilon=norm.eps))

    def linear(
        self,
        source: str,
        name: str,
        width: int = 0,
        *,
        is_transposed: bool = False,
        kind: str = "",
    ) -> str:
        """Add a linear map, with its bias if it has one.

        ``width``: of the result, 0: any. ``kind``: the matrix's, of MATRIX_KINDS, or none.
        """
        name = self._full(name)
        shape = (width, self._widths.get(source, 0))
        weight = self._weights.read(f"{name}.weight", *(shape[::-1] if is_transposed else shape))
        weight = weight if is_transposed else np.ascontiguousarray(weight.T)
        bias = None
        if self._weights.has(f"{name}.bias"):
            bias = self._weights.read(f"{name}.bias", weight.shape[1])
        if kind in self._int8:
            output = self._name()
            product = multiply_int8(
                self.nodes, weight, bias, name=f"{output}_matrix", source=source, output=output
            )
        else:
            product = self.add("MatMul", source, self.number(weight))
            if bias is not None:
                product = self.add("Add", product, self.number(bias))
        return self.of_width(weight.shape[1], product)

    def of_width(self, width: int, value: str) -> str:
        """Note a value's width, which tensors that it meets must fit, and return its name."""
        self._widths[value] = width
        return value

    def activation(self, source: str, name: str) -> str:
        """Add an activation. Raises CheckpointError for an unknown one."""
        if name in _SIGMOID_FACTORS:
            gate = self.add("Sigmoid", self.scaled(source, _SIGMOID_FACTORS[name]))
            return self.add("Mul", source, gate)
        if name not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json: the activation is {name!r}; supported are "
                f"{', '.join([*ACTIVATIONS, *_SIGMOID_FACTORS])}"
            )
        attributes = dict(ACTIVATIONS[name])
        return self.add(attributes.pop("op_type"), source, **attributes)

    def feed_forward(self, source: str, design: FeedForward) -> str:
        """Add a feed-forward network."""
        is_transposed = design.is_transposed
        up = self.linear(source, design.up, is_transposed=is_transposed, kind="up")
        width = self._widths[up]
        if design.is_fused or (design.gate and self._find(design.gate) == self._find(design.up)):
            if width % 2:
                raise CheckpointError(
                    f"tensor {self._find(design.up)} holds two maps in {width} rows; expected an "
                    "even number of rows"
                )
            width //= 2
            activated, factor = self._name(), self._name()
            self.nodes.add("Split", [up], activated, factor, axis=-1, num_outputs=2)
            up = self.add("Mul", self.activation(activated, design.activation), factor)
        elif design.gate:
            gate = self.linear(source, design.gate, width, is_transposed=is_transposed, kind="up")
            up = self.add("Mul", self.activation(gate, design.activation), up)
        else:
            up = self.activation(up, design.activation)
        size, source = self._weights.hidden_size, self.of_width(width, up)
        return self.linear(source, design.down, size, is_transposed=is_transposed, kind="down")

    def scaled(self, source: str, factor: float) -> str:
        """Multiply by a number, unless it is 1."""
        return source if factor == 1.0 else self.add("Mul", source, self.number(factor))

    def end(self, source: str) -> None:
        """Make a value the segment's output."""
        self.nodes.add("Identity", [source], "output")

    def _find(self, name: str) -> str:
        return self._weights.find(f"{self._full(name)}.weight")

    def _full(self, name: str) -> str:
        return name.format(layer=self._layer)

    def _name(self) -> str:
        self._num_values += 1
        return f"value_{self._num_values}"
