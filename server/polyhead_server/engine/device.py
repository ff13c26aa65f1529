"""Tensors that stay on a device, such as a GPU, between the runs of a whole model's segments.

A run takes NumPy arrays and tensors of the device. It copies to the host only the outputs that do
not stay on the device. Models on CPUs run without this module, because NumPy arrays are in the
same memory.
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
    """A device that tensors lie on."""

    kind: str
    """ONNX Runtime's name: cuda, or cpu in tests."""
    number: int = 0
    """CUDA's number of the device."""


class DeviceTensor:
    """A tensor of numbers on a device. It is copied to the host when NumPy uses it as an array.

    Uses that need no numbers work without a copy: its shape, the whole tensor, and empty slices.
    AttentionRun needs no others.
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
    """Return an array in contiguous memory, which a run needs."""
    return array if isinstance(array, DeviceTensor) else np.ascontiguousarray(array)


def on_host(array: NDArray[Any] | DeviceTensor) -> NDArray[Any]:
    """Return a NumPy array."""
    return np.asarray(array)


def _value_of(array: NDArray[Any] | DeviceTensor) -> ort.OrtValue:
    """Return a value that can be bound. An array of the host is not copied.

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
    on_device: Container[str],
) -> list[Any]:
    """Run a graph once, and return the named outputs. Those in ``on_device`` stay on the device.

    ``feeds``: arrays, and tensors of the device. Raises ONNX Runtime's errors.
    """
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, _value_of(value))
    for name in names:
        binding.bind_output(name, *(device if name in on_device else ("cpu", 0)))
    session.run_with_iobinding(binding, options)
    outputs = zip(names, binding.get_outputs(), strict=True)
    return [DeviceTensor(value) if name in on_device else value.numpy() for name, value in outputs]
