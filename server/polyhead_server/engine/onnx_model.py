"""A graph that polyhead did not export: any ONNX model, with its own inputs and outputs."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime as ort

from polyhead_server.call import ExecutionInfo
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import ModelFileError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["ANY", "OnnxModel", "TensorSpec"]

ANY = -1
"""An axis of any length."""
_BFLOAT16 = "BF16"
_ONNX_BFLOAT16 = 16
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": _BFLOAT16,
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""Maps ONNX Runtime's names of types to those of the Open Inference Protocol."""


class TensorSpec(NamedTuple):
    """An input or output of a model."""

    name: str
    datatype: str
    """Name of the type in the Open Inference Protocol."""
    shape: tuple[int, ...]
    """Lengths of the axes, -1: any. Empty for scalars, and if the graph does not specify it."""
    is_optional: bool = False


class OnnxModel:
    """A loaded graph. Safe to run from several threads at once."""

    def __init__(
        self, name: str, version: int, session: ort.InferenceSession, max_batch_size: int
    ) -> None:
        """``max_batch_size``: declared longest batch axis; 0: the first axis is no batch axis.

        Raises ModelFileError for tensors of a type that the protocol lacks, or without the declared
        batch axis.
        """
        self.name = name
        self.version = version
        self.providers: list[str] = session.get_providers()
        self.execution_info = ExecutionInfo(name, version, self.providers[0])
        self.statistics = ModelStatistics()
        self.file_bytes = 0
        """Size of its files; set when it is loaded from a repository."""
        self.max_batch_size = max_batch_size
        self.inputs = [
            *(_spec(node) for node in session.get_inputs()),
            *(_spec(node, is_optional=True) for node in session.get_overridable_initializers()),
        ]
        self.outputs = [_spec(node) for node in session.get_outputs()]
        self._session = session
        specs = (*self.inputs, *self.outputs)
        self._has_bfloat16 = any(spec.datatype == _BFLOAT16 for spec in specs)
        if max_batch_size:
            _check_batch_axis([spec for spec in specs if not spec.is_optional])

    def run_options(self) -> ort.RunOptions:
        """Make options of a run; setting `terminate` on them ends it at its next node."""
        return ort.RunOptions()

    def run(
        self,
        names: Sequence[str],
        feeds: Mapping[str, NDArray[Any]],
        options: ort.RunOptions | None,
    ) -> list[NDArray[Any]]:
        """Run the graph once, and return the named outputs.

        Bfloat16 is passed as bits in uint16, strings as arrays of str. Raises any exception of ONNX
        Runtime.
        """
        if self._has_bfloat16:
            return self._run_values(names, feeds, options)
        outputs: list[NDArray[Any]] = self._session.run(list(names), dict(feeds), options)
        return outputs

    def _run_values(
        self,
        names: Sequence[str],
        feeds: Mapping[str, NDArray[Any]],
        options: ort.RunOptions | None,
    ) -> list[NDArray[Any]]:
        """Run the graph with tensors of bfloat16, for which NumPy has no type."""
        datatypes = {spec.name: spec.datatype for spec in self.inputs}
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            if datatypes[name] == _BFLOAT16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        outputs = self._session.run_with_ort_values(list(names), values, options)
        return [_array(output) for output in outputs]


def _array(value: ort.OrtValue) -> NDArray[Any]:
    if value.data_type() != "tensor(bfloat16)":
        array: NDArray[Any] = value.numpy()
        return array
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, np.uint16).reshape(value.shape())


def _spec(node: ort.NodeArg, *, is_optional: bool = False) -> TensorSpec:
    if node.type not in _DATATYPES:
        raise ModelFileError(
            f"{quoted(node.name)} is of type {node.type}, which no request can hold"
        )
    shape = tuple(length if isinstance(length, int) else ANY for length in node.shape)
    return TensorSpec(node.name, _DATATYPES[node.type], shape, is_optional)


def _check_batch_axis(specs: Sequence[TensorSpec]) -> None:
    for spec in specs:
        if not spec.shape or spec.shape[0] != ANY:
            raise ModelFileError(
                f"its config.pbtxt declares a batch axis, max_batch_size, and "
                f"{quoted(spec.name)} has none: the shape is {list(spec.shape)}"
            )
