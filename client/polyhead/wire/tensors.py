"""NumPy arrays <-> ``polyhead.v1.Tensor``: raw little-endian bytes with a dtype and a shape.

Client and server share this module. It depends on NumPy and the message, not on gRPC.

NumPy has no bfloat16, so a BFLOAT16 tensor is read as float32, which represents each of its values
exactly. Arrays with the bfloat16 of the ``ml_dtypes`` package are recognised when written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.v1.attention_pb2 import DataType, Tensor
from polyhead.wire.protobuf import header

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "FLOAT_NAMES",
    "MAX_RANK",
    "TensorError",
    "TensorLayout",
    "dtype_name",
    "encode_elements",
    "itemsize",
    "parse_dtype",
    "tensor_head",
    "to_array",
    "to_tensor",
]

MAX_RANK = 8
"""Most axes a tensor may have."""
_DATA = Tensor.DATA_FIELD_NUMBER
# constants, because a look-up in the enumeration takes a microsecond
_BOOL, _BFLOAT16 = DataType.DATA_TYPE_BOOL, DataType.DATA_TYPE_BFLOAT16


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
    """The name and the elements of one DataType."""

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
_AS_IS = {
    dtype: fmt.wire for dtype, fmt in _FORMATS.items() if dtype != DataType.DATA_TYPE_BFLOAT16
}
"""DataTypes whose elements NumPy represents as the wire does."""
_BY_NAME = {fmt.name: dtype for dtype, fmt in _FORMATS.items()}
FLOAT_NAMES = ("float32", "float16", "bfloat16", "float64")
"""The dtypes of embeddings, outputs and attention weights."""
_FLOATS = frozenset(_BY_NAME[name] for name in FLOAT_NAMES)


def parse_dtype(dtype: DTypeLike, accepted: Sequence[str] = tuple(_BY_NAME)) -> DataType.ValueType:
    """Return the DataType of a name such as ``"bfloat16"``, or of a NumPy dtype.

    Raises TensorError (UNSUPPORTED_DTYPE) for any that is not among the names ``accepted``.
    """
    # By name first: NumPy knows "bfloat16" only where ml_dtypes has been imported.
    name = dtype if isinstance(dtype, str) and dtype in accepted else _numpy_name(dtype)
    if name not in accepted:
        raise _unsupported_dtype(name, accepted)
    return _BY_NAME[name]


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


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """A tensor's element type and shape."""

    dtype: DataType.ValueType
    shape: tuple[int, ...]
    nbytes: int
    """Size of the elements on the wire."""

    @classmethod
    def of(cls, tensor: Tensor) -> TensorLayout:
        """Read a message's dtype and shape alone.

        Raises TensorError with the reason UNSUPPORTED_DTYPE or INVALID_SHAPE.
        """
        fmt, shape = _format(tensor.dtype), _checked_shape(tensor.shape)
        return cls(tensor.dtype, shape, math.prod(shape) * fmt.wire.itemsize)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def check_size(self, size: int) -> None:
        """Raise TensorError (BYTE_SIZE_MISMATCH) unless the elements take ``size`` bytes."""
        if size != self.nbytes:
            raise TensorError(
                f"shape {list(self.shape)} of {dtype_name(self.dtype)} takes {self.nbytes} bytes; "
                f"got {size}",
                "BYTE_SIZE_MISMATCH",
                "data",
            )

    def times(self, count: int) -> TensorLayout:
        """Return the layout of ``count`` such tensors, joined along the first axis."""
        shape = self.shape[0] * count, *self.shape[1:]
        return TensorLayout(self.dtype, shape, self.nbytes * count)

    def read(self, data: bytes | memoryview, start: int = 0) -> NDArray[Any]:
        """View the elements that begin at ``data[start]`` as an array, without a copy.

        The array is read-only if the data are. BFLOAT16 is converted to float32, exactly.

        Call check_size before, because a wrong number of bytes is not detected here. Raises
        TensorError (INVALID_VALUE) for a bool that is not 0 or 1.
        """
        # The elements may begin at an odd address. ONNX Runtime and NumPy accept this. They lose
        # less time by it than a copy would take (matrix product, sum: within noise).
        array: NDArray[Any] = np.ndarray(self.shape, _FORMATS[self.dtype].wire, data, start)
        if self.dtype == _BOOL:
            largest = int(array.view(np.uint8).max())
            if largest > 1:
                raise TensorError(
                    f"a bool is one byte, 0 or 1; got a byte of {largest}", "INVALID_VALUE", "data"
                )
        return _widened(array) if self.dtype == _BFLOAT16 else array

    def read_each(self, pieces: Iterable[bytes | memoryview]) -> list[NDArray[Any]]:
        """View each piece as an array, from its first byte on; see read."""
        if self.dtype not in _AS_IS or self.dtype == _BOOL:
            return [self.read(piece) for piece in pieces]
        shape, wire = self.shape, _AS_IS[self.dtype]
        return [np.ndarray(shape, wire, piece) for piece in pieces]


def to_array(tensor: Tensor) -> NDArray[Any]:
    """Read a tensor as a read-only array, without another copy of its bytes.

    Dtype, shape and size are checked first. Raises TensorError as TensorLayout does.
    """
    layout = TensorLayout.of(tensor)
    data = tensor.data  # read once: each read copies
    layout.check_size(len(data))
    return layout.read(data)


def to_tensor(array: NDArray[Any], dtype: DataType.ValueType | None = None) -> Tensor:
    """Write an array as a message; see encode_elements."""
    elements = encode_elements(array, dtype)
    target = parse_dtype(array.dtype) if dtype is None else dtype
    return Tensor(dtype=target, shape=_checked_shape(array.shape), data=elements.tobytes())


def encode_elements(array: NDArray[Any], dtype: DataType.ValueType | None = None) -> NDArray[Any]:
    """Return an array's elements in the form of a message: row-major and little-endian.

    An array that already has this form is returned itself. ``dtype`` converts between the float
    types: it rounds to nearest, ties to even; numbers beyond the range become infinity; NaN stays
    NaN. float64 is converted to BFLOAT16 through float32. Elements of BFLOAT16 are returned as
    their bits.

    Raises TensorError with the reason UNSUPPORTED_DTYPE.
    """
    if dtype in _AS_IS and array.dtype is _AS_IS[dtype] and array.flags.c_contiguous:
        return array  # the usual case; the rest of the function takes microseconds
    source = parse_dtype(array.dtype)
    target = source if dtype is None else dtype
    fmt = _format(target)
    if source != target and not {source, target} <= _FLOATS:
        raise TensorError(
            f"{dtype_name(source)} does not convert to {fmt.name}; expected the same dtype, or "
            "two float types",
            "UNSUPPORTED_DTYPE",
            "dtype",
        )
    if source == _BFLOAT16:
        array = array.view(np.uint16)
        if target != source:
            array = _widened(array)
    elif target == _BFLOAT16:
        array = _narrowed(array)
    with np.errstate(all="ignore"):  # by contract conversion to a smaller type may give infinity
        encoded: NDArray[Any] = array.astype(fmt.wire, order="C", copy=False)
    return encoded


@lru_cache(maxsize=1024)
def tensor_head(number: int, dtype: DataType.ValueType, shape: tuple[int, ...]) -> bytes:
    """Write a Tensor that is field ``number`` of a message, without its elements at the end.

    The elements, as encode_elements returns them, must follow. Raises TensorError with the reason
    UNSUPPORTED_DTYPE or INVALID_SHAPE.
    """
    size = math.prod(_checked_shape(shape)) * itemsize(dtype)
    head = Tensor(dtype=dtype, shape=shape).SerializeToString() + header(_DATA, size)
    return header(number, len(head) + size) + head


def _format(dtype: DataType.ValueType) -> _Format:
    if dtype not in _FORMATS:
        raise _unsupported_dtype("not set" if dtype == 0 else str(dtype))
    return _FORMATS[dtype]


def _unsupported_dtype(got: str, accepted: Sequence[str] = tuple(_BY_NAME)) -> TensorError:
    return TensorError(
        f"expected one of {', '.join(accepted)}; got {got}", "UNSUPPORTED_DTYPE", "dtype"
    )


def _numpy_name(dtype: DTypeLike) -> str:
    if dtype is None:  # NumPy takes None for float64
        return "None"
    try:
        return np.dtype(dtype).name
    except (TypeError, ValueError):  # ValueError: lone surrogates, and some dicts
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
    """Return the float32 values of bfloat16 bits, which are the upper halves of their bits."""
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    values.flags.writeable = False
    return values


def _narrowed(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the bfloat16 bits of float values, rounded to nearest, ties to even."""
    with np.errstate(all="ignore"):
        bits = values.astype(np.float32, order="C").view(np.uint32)
    # Add half a unit of the last remaining place, less one bit where this place is even.
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # A NaN whose payload lies in the lower half would round to infinity: set its quiet bit.
    quiet = (bits >> 16) | 0x0040
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
