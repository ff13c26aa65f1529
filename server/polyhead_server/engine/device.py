"""Tensors that stay on a device, such as a GPU, between the runs of a whole model's segments.

A run takes arrays of NumPy and tensors of the device, and copies to the host only the outputs
that are not to stay. On CPUs models are run without this, because there NumPy's arrays are as near.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["Device", "DeviceTensor", "contiguous", "on_host", "run_on_device"]

_DTYPES = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
"""Hidden states are of these types."""
_ALL = slice(None)


class Device(NamedTuple):
    """Where tensors lie."""

    kind: str
    """ONNX Runtime's name: cuda, or cpu to test what runs on a GPU."""
    number: int = 0
    """Which of several, as CUDA numbers them."""


class DeviceTensor:
    """A tensor of numbers on a device. NumPy takes it for an array, and then it is copied.

    What AttentionRun and its like ask of an array works without a copy as far as no numbers are
    needed: its shape, all of it, and none of it.
    """

    __slots__ = ("_on_host", "dtype", "shape", "value")

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self.shape = tuple(value.shape())
        self.dtype = _DTYPES[value.data_type()]
        self._on_host: NDArray[Any] | None = None

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - whatever NumPy takes
        parts = index if isinstance(index, tuple) else (index,)
        if all(isinstance(each, slice) for each in parts):
            if all(each == _ALL for each in parts):
                return self
            shape = np.broadcast_to(np.empty((), np.bool_), self.shape)[index].shape
            if 0 in shape:
                return np.empty(shape, self.dtype)
        return self.__array__()[index]

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001
    ) -> NDArray[Any]:
        """Copy the tensor to the host, once."""
        if self._on_host is None:
            self._on_host = self.value.numpy()
        return np.array(self._on_host, dtype, copy=copy)


def contiguous(array: NDArray[Any] | DeviceTensor) -> NDArray[Any] | DeviceTensor:
    """Return an array whose numbers lie one after the other, as a run takes it."""
    return array if isinstance(array, DeviceTensor) else np.ascontiguousarray(array)


def on_host(array: NDArray[Any] | DeviceTensor) -> NDArray[Any]:
    """Return an array of NumPy."""
    return np.asarray(array)


def _value_of(array: NDArray[Any] | DeviceTensor) -> ort.OrtValue:
    """Return what can be bound; an array of the host is not copied.

    Binding arrays themselves (bind_cpu_input) does not work for optional inputs of a graph.
    """
    if isinstance(array, DeviceTensor):
        return array.value
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))


def run_on_device(
    session: ort.InferenceSession,
    names: Sequence[str],
    feeds: Mapping[str, Any],
    *,
    options: ort.RunOptions | None,
    device: Device,
    kept: Container[str],
) -> list[Any]:
    """Run a graph once, and return the named outputs: those in ``kept`` as tensors of the device.

    ``feeds``: arrays and tensors of the device. Raises what ONNX Runtime raises.
    """
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, _value_of(value))
    for name in names:
        binding.bind_output(name, *(device if name in kept else ("cpu", 0)))
    session.run_with_iobinding(binding, options)
    outputs = zip(names, binding.get_outputs(), strict=True)
    return [DeviceTensor(value) if name in kept else value.numpy() for name, value in outputs]
