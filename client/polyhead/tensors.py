"""NumPy arrays <-> ``polyhead.v1.Tensor``: raw little-endian bytes with a dtype and a shape.

Client and server share this module; it knows NumPy and the message, and no transport.

NumPy has no bfloat16. A BFLOAT16 tensor is therefore read as float32, which holds each of its
values exactly; arrays of the ``ml_dtypes`` package's bfloat16 are recognised when written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.v1.attention_pb2 import DataType, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "FLOAT_NAMES",
    "MAX_RANK",
    "TensorError",
    "dtype_name",
    "dtype_of",
    "fill_tensor",
    "itemsize",
    "parse_dtype",
    "to_array",
    "to_tensor",
]

MAX_RANK = 8
"""Most axes a tensor may have."""


class TensorError(ValueError):
    """An array that cannot be sent, or a tensor message that describes no array."""

    def __init__(self, message: str, reason: str, field: str) -> None:
        super().__init__(message, reason, field)
        self.message = message
        self.reason = reason
        """A stable constant, such as BYTE_SIZE_MISMATCH."""
        self.field = field
        """The field of Tensor at fault: ``dtype``, ``shape`` or ``data``."""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class _Format:
    """How the elements of one DataType look."""

    name: str
    wire: np.dtype[Any]


_FORMATS: dict[DataType.ValueType, _Format] = {
    DataType.DATA_TYPE_FLOAT: _Format("float32", np.dtype("<f4")),
    DataType.DATA_TYPE_FLOAT16: _Format("float16", np.dtype("<f2")),
    DataType.DATA_TYPE_BFLOAT16: _Format("bfloat16", np.dtype("<u2")),
    DataType.DATA_TYPE_DOUBLE: _Format("float64", np.dtype("<f8")),
    DataType.DATA_TYPE_BOOL: _Format("bool", np.dtype("bool")),
    DataType.DATA_TYPE_INT32: _Format("int32", np.dtype("<i4")),
    DataType.DATA_TYPE_INT64: _Format("int64", np.dtype("<i8")),
}
_BY_NAME = {fmt.name: dtype for dtype, fmt in _FORMATS.items()}
FLOAT_NAMES = ("float32", "float16", "bfloat16", "float64")
"""What embeddings, outputs and attention weights may be of."""
_FLOATS = frozenset(_BY_NAME[name] for name in FLOAT_NAMES)


def parse_dtype(dtype: DTypeLike, accepted: Sequence[str] = tuple(_BY_NAME)) -> DataType.ValueType:
    """Find the DataType of a name such as ``"bfloat16"``, or of a NumPy dtype.

    Raises TensorError (UNSUPPORTED_DTYPE) for any that is not among the names ``accepted``.
    """
    # By name first: NumPy knows "bfloat16" only where ml_dtypes has been imported.
    name = dtype if isinstance(dtype, str) and dtype in accepted else _numpy_name(dtype)
    if name not in accepted:
        raise _unsupported_dtype(name, accepted)
    return _BY_NAME[name]


def dtype_of(array: NDArray[Any]) -> DataType.ValueType:
    """Find the DataType that holds an array's elements unchanged.

    Raises TensorError (UNSUPPORTED_DTYPE) if there is none.
    """
    return parse_dtype(array.dtype)


def dtype_name(dtype: DataType.ValueType) -> str:
    """Name a DataType as NumPy users do: ``"float32"``, ``"bfloat16"``, ...

    Raises TensorError (UNSUPPORTED_DTYPE) if it is not set or unknown.
    """
    return _format(dtype).name


def itemsize(dtype: DataType.ValueType) -> int:
    """Size of one element of a DataType on the wire, in bytes.

    Raises TensorError (UNSUPPORTED_DTYPE) if it is not set or unknown.
    """
    return _format(dtype).wire.itemsize


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Read a tensor as a read-only array, without copying its bytes again.

    The array has the tensor's own dtype; BFLOAT16 is widened to float32, exactly.
    Everything is checked before an array is made. Raises TensorError with the reason
    UNSUPPORTED_DTYPE, INVALID_SHAPE, BYTE_SIZE_MISMATCH or INVALID_VALUE (a bool not 0 or 1).
    """
    fmt = _format(tensor.dtype)
    shape = _checked_shape(tensor.shape)
    data = tensor.data  # read once: each read copies
    expected = math.prod(shape) * fmt.wire.itemsize
    if len(data) != expected:
        raise TensorError(
            f"shape {list(shape)} of {fmt.name} takes {expected} bytes; got {len(data)}",
            "BYTE_SIZE_MISMATCH",
            "data",
        )
    if tensor.dtype == DataType.DATA_TYPE_BOOL:
        largest = int(np.frombuffer(data, np.uint8).max())
        if largest > 1:
            raise TensorError(
                f"a bool is one byte, 0 or 1; got a byte of {largest}", "INVALID_VALUE", "data"
            )
    array = np.frombuffer(data, fmt.wire).reshape(shape)
    return _widened(array) if tensor.dtype == DataType.DATA_TYPE_BFLOAT16 else array


def to_tensor(array: NDArray[Any], dtype: DataType.ValueType | None = None) -> Tensor:
    """Write an array as a new tensor; see fill_tensor."""
    tensor = Tensor()
    fill_tensor(tensor, array, dtype)
    return tensor


def fill_tensor(
    tensor: Tensor, array: NDArray[Any], dtype: DataType.ValueType | None = None
) -> None:
    """Write an array of any memory layout and byte order into a tensor, such as a request's field.

    Filling a message in place saves the copy that assigning a finished one makes. ``dtype``
    converts between the float types on the way: rounding to nearest, ties to even; beyond the
    range to infinity; NaN to NaN. float64 becomes BFLOAT16 by way of float32.

    Raises TensorError with the reason UNSUPPORTED_DTYPE or INVALID_SHAPE.
    """
    source = dtype_of(array)
    shape = _checked_shape(array.shape)
    target = source if dtype is None else dtype
    fmt = _format(target)
    if source != target and not {source, target} <= _FLOATS:
        raise TensorError(
            f"{dtype_name(source)} does not convert to {fmt.name}; expected the same dtype, or "
            "two float types",
            "UNSUPPORTED_DTYPE",
            "dtype",
        )
    if source == DataType.DATA_TYPE_BFLOAT16:
        array = array.view(np.uint16)
        if target != source:
            array = _widened(array)
    elif target == DataType.DATA_TYPE_BFLOAT16:
        array = _narrowed(array)
    with np.errstate(all="ignore"):  # conversion to a smaller type gives inf by contract
        data = array.astype(fmt.wire, copy=False).tobytes()
    tensor.dtype = target
    tensor.shape[:] = shape
    tensor.data = data


def _format(dtype: DataType.ValueType) -> _Format:
    if dtype not in _FORMATS:
        raise _unsupported_dtype("not set" if dtype == 0 else str(dtype))
    return _FORMATS[dtype]


def _unsupported_dtype(got: str, accepted: Sequence[str] = tuple(_BY_NAME)) -> TensorError:
    return TensorError(
        f"expected one of {', '.join(accepted)}; got {got}", "UNSUPPORTED_DTYPE", "dtype"
    )


def _numpy_name(dtype: DTypeLike) -> str:
    if dtype is None:  # which NumPy takes for float64
        return "None"
    try:
        return np.dtype(dtype).name
    except TypeError:
        return repr(dtype)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not 0 < len(shape) <= MAX_RANK:
        raise _invalid_shape(f"expected 1 to {MAX_RANK} axes; got {len(shape)}")
    if min(shape) < 1:
        raise _invalid_shape(f"every axis must have length 1 or more; got {list(shape)}")
    return tuple(shape)


def _invalid_shape(message: str) -> TensorError:
    return TensorError(message, "INVALID_SHAPE", "shape")


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Float32 values of bfloat16 bits: they are the upper halves."""
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    values.flags.writeable = False
    return values


def _narrowed(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Bfloat16 bits of float values, rounded to nearest, ties to even."""
    with np.errstate(all="ignore"):
        bits = values.astype(np.float32, order="C").view(np.uint32)
    # Half a unit in the last place that stays, less one bit where that place is even.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A NaN whose payload lies in the lower half would round to infinity: set its quiet bit.
    quiet = (bits >> 16) | 0x0040
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
