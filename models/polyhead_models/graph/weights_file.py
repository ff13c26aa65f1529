"""Writes weights beside a graph, because one ONNX file holds less than 2 GiB."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from polyhead_models.store import WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    import onnx
    from numpy.typing import NDArray

__all__ = ["WeightsFile"]

_ALIGNMENT = 4096
"""Tensors begin at multiples of a page, because ONNX Runtime maps them into memory."""
_PART_BYTES = 1 << 24
"""Approximate number of bytes per write, because transposed tensors are copied part by part."""


class WeightsFile:
    """Writes different tensors to a file one after the other, and takes the file's checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._offsets: dict[bytes, int] = {}
        self.digest = sha256()

    def store(self, tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
        """Write a tensor's numbers unless the same numbers are there; refer the tensor to them."""
        digest = sha256()
        for part in _parts(array):
            digest.update(part)
        checksum = digest.digest()
        if checksum not in self._offsets:
            padding = bytes(-self._size % _ALIGNMENT)
            self._offsets[checksum] = self._size + len(padding)
            self._size += len(padding) + array.nbytes
            self._write(padding)
            for part in _parts(array):
                self._write(part)
        place = {
            "location": WEIGHTS_FILE,
            "offset": self._offsets[checksum],
            "length": array.nbytes,
        }
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.digest.update(data)


def _parts(array: NDArray[Any]) -> Iterator[memoryview]:
    """Yield an array's bytes in order, some rows at a time."""
    rows = np.atleast_1d(array)
    num_rows = max(1, _PART_BYTES * len(rows) // max(1, rows.nbytes))
    for start in range(0, len(rows), num_rows):
        yield np.ascontiguousarray(rows[start : start + num_rows]).data
