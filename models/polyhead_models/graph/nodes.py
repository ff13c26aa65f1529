"""Builds an ONNX graph from nodes and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

    StoreWeights = Callable[[onnx.TensorProto, NDArray[Any]], None]

__all__ = ["FUSED_DOMAIN", "Nodes"]

FUSED_DOMAIN = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
_STORED_FROM_BYTES = 1 << 10
"""Smaller constants stay in the graph, because shapes and indices have to be known when it is
loaded."""


class Nodes:
    """Builder of one graph: the main graph, or one branch of an If."""

    def __init__(
        self, dtype: DTypeLike, graph: onnx.GraphProto, store: StoreWeights | None = None
    ) -> None:
        """Begin to fill ``graph``, which will compute with numbers of ``dtype``.

        Nodes are added to ``graph`` directly, because protobuf copies messages on assignment.
        ``store``: writes a constant's numbers elsewhere, and notes in the tensor where.
        """
        self.dtype = np.dtype(dtype)
        self._graph = graph
        self._store = store

    def branch(self) -> Nodes:
        """Start a graph that can become a branch of an If in this one."""
        return Nodes(self.dtype, onnx.GraphProto(), self._store)

    def add(
        self,
        op_type: str,
        inputs: list[str],
        output: str,
        *more_outputs: str,
        **attributes: Any,  # noqa: ANN401 - the operator's attributes, as in helper.make_node
    ) -> str:
        """Append a node, named after its first output, and return that output's name."""
        outputs = [output, *more_outputs]
        name = f"{output}/{op_type}"
        self._graph.node.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))
        return output

    def number(self, name: str, value: object) -> str:
        """Add a constant of this graph's dtype."""
        return self._constant(name, np.asarray(value).astype(self.dtype, copy=False))

    def integer(self, name: str, value: object) -> str:
        """Add a constant of int64: an index, an axis, a shape."""
        return self._constant(name, np.asarray(value, dtype=np.int64))

    def array(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """Add a constant of the array's own dtype."""
        return self._constant(name, value)

    def choose(
        self, condition: str, outputs: list[str], then: onnx.GraphProto, otherwise: onnx.GraphProto
    ) -> None:
        """Append an If."""
        self.add("If", [condition], *outputs, then_branch=then, else_branch=otherwise)

    def closed(self, name: str, outputs: dict[str, int]) -> onnx.GraphProto:
        """Close this graph as a branch of an If, which takes its inputs from the surrounding graph.

        ``outputs``: names and element types (of TensorProto).
        """
        self._graph.name = name
        self._graph.output.extend(
            helper.make_tensor_value_info(output, dtype, None) for output, dtype in outputs.items()
        )
        return self._graph

    @property
    def number_type(self) -> int:
        """This graph's dtype, as one of TensorProto's element types."""
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    @property
    def is_narrow(self) -> bool:
        """Whether this graph's dtype is narrower than FLOAT."""
        return self.number_type != TensorProto.FLOAT

    def _constant(self, name: str, array: np.ndarray[Any, Any]) -> str:
        tensor = self._graph.initializer.add()
        tensor.name = name
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if self._store and array.nbytes >= _STORED_FROM_BYTES:
            self._store(tensor, little_endian)
        else:
            tensor.raw_data = little_endian.tobytes()
        return name
