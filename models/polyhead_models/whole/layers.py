"""Norms, linear maps and activations as nodes, with weights read from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.graph.projection import multiply_int8
from polyhead_models.whole.activations import ACTIVATIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.checkpoint.designs.design import FeedForward, Norm
    from polyhead_models.checkpoint.stack_tensors import StackTensors
    from polyhead_models.graph.nodes import Nodes

__all__ = ["LayerBuilder"]


class LayerBuilder:
    """Adds layers' parts to a graph. Names of tensors may hold ``{layer}``."""

    def __init__(
        self, nodes: Nodes, tensors: StackTensors, layer: str = "", int8: tuple[str, ...] = ()
    ) -> None:
        """``int8``: kinds of matrices that are int8, of MATRIX_KINDS."""
        self.nodes = nodes
        self._int8 = int8
        self._tensors = tensors
        self._layer = layer
        self._num_values = 0

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
        """Whether the model has such a tensor."""
        return self._tensors.has(self._full(name))

    def read(self, name: str) -> NDArray[np.float32]:
        """Read a tensor of the checkpoint."""
        return self._tensors.read(self._full(name))

    def tensor(self, name: str) -> str:
        """Add a tensor of the checkpoint."""
        return self.number(self.read(name))

    def norm(self, source: str, norm: Norm | None) -> str:
        """Add a norm, if there is one."""
        if norm is None:
            return source
        if norm.width:
            ones = self.number(np.ones(norm.width))
            return self.add("LayerNormalization", source, ones, axis=-1, epsilon=norm.eps)
        weight = self.read(f"{norm.name}.weight") + np.float32(norm.is_less_one)
        inputs = [source, self.number(weight)]
        if self.has(f"{norm.name}.bias"):
            inputs.append(self.tensor(f"{norm.name}.bias"))
        op_type = "RMSNormalization" if norm.is_rms else "LayerNormalization"
        return self.add(op_type, *inputs, axis=-1, epsilon=norm.eps)

    def linear(self, source: str, name: str, *, is_transposed: bool = False, kind: str = "") -> str:
        """Add a linear map, with its bias if it has one.

        ``kind``: the matrix's kind, of MATRIX_KINDS; empty for none.
        """
        weight = self.read(f"{name}.weight")
        weight = weight if is_transposed else np.ascontiguousarray(weight.T)
        bias = self.read(f"{name}.bias") if self.has(f"{name}.bias") else None
        if kind in self._int8:
            output = self._name()
            return multiply_int8(
                self.nodes, weight, bias, name=f"{output}_matrix", source=source, output=output
            )
        product = self.add("MatMul", source, self.number(weight))
        return product if bias is None else self.add("Add", product, self.number(bias))

    def activation(self, source: str, name: str) -> str:
        """Add an activation. Raises CheckpointError for an unknown one."""
        if name not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json: the activation is {name!r}; supported are {', '.join(ACTIVATIONS)}"
            )
        value = source
        for operator in ACTIVATIONS[name].operators:
            numbers = map(self.number, operator.numbers)
            value = self.add(operator.op_type, value, *numbers, **operator.attributes)
        return self.add("Mul", source, value) if ACTIVATIONS[name].is_gate else value

    def feed_forward(self, source: str, design: FeedForward) -> str:
        """Add a feed-forward network."""
        is_transposed = design.is_transposed
        up = self.linear(source, design.up, is_transposed=is_transposed, kind="up")
        if design.is_fused or (design.gate and self._are_one(design.gate, design.up)):
            activated, factor = self._name(), self._name()
            self.nodes.add("Split", [up], activated, factor, axis=-1, num_outputs=2)
            up = self.add("Mul", self.activation(activated, design.activation), factor)
        elif design.gate:
            gate = self.linear(source, design.gate, is_transposed=is_transposed, kind="up")
            up = self.add("Mul", self.activation(gate, design.activation), up)
        else:
            up = self.activation(up, design.activation)
        return self.linear(up, design.down, is_transposed=is_transposed, kind="down")

    def scaled(self, source: str, factor: float) -> str:
        """Multiply by a number, unless it is 1."""
        return source if factor == 1.0 else self.add("Mul", source, self.number(factor))

    def end(self, source: str) -> None:
        """Make a value the segment's output."""
        self.nodes.add("Identity", [source], "output")

    def _are_one(self, gate: str, up: str) -> bool:
        names = (f"{self._full(name)}.weight" for name in (gate, up))
        return self._tensors.are_one(*names)

    def _full(self, name: str) -> str:
        return name.format(layer=self._layer)

    def _name(self) -> str:
        self._num_values += 1
        return f"value_{self._num_values}"
