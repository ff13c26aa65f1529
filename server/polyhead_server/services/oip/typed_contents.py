"""Converts typed contents of a ModelInferRequest to raw ones, and strings to and from bytes."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.errors import InvalidRequestError, quoted
from polyhead_server.services.oip.datatypes import BYTES, DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = ["to_raw_contents", "pack_bytes", "refuse_shared_memory", "unpack_bytes"]

_SHARED_MEMORY = "shared_memory_region"
_SIZE = struct.Struct("<I")
_MAX_STRINGS = 1 << 16
"""Most strings of a tensor, because each takes 50 bytes of memory, and may be 4 of a message."""
_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The field of InferTensorContents that holds elements of each type."""
_WIDE_DTYPES = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}
"""The elements of fields that hold narrower types as well."""


def to_raw_contents(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """Move the contents of all inputs to raw_input_contents, changing the message.

    Raises InvalidRequestError if contents do not fit their input's datatype.
    """
    refuse_shared_memory(request)
    for tensor in request.inputs:
        request.raw_input_contents.append(_raw_contents(tensor))
        tensor.ClearField("contents")
    return request


def refuse_shared_memory(request: pb.ModelInferRequest) -> None:
    """Raise InvalidRequestError for tensors in shared memory."""
    shared = [tensor.name for tensor in request.inputs if _SHARED_MEMORY in tensor.parameters]
    shared += [output.name for output in request.outputs if _SHARED_MEMORY in output.parameters]
    for name in shared:
        raise InvalidRequestError(
            f"{name}.parameters.{_SHARED_MEMORY}",
            "this server shares no memory with its callers: send and receive the elements in the "
            "messages",
            "UNSUPPORTED",
        )


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """Write strings as raw contents: each after its length in four bytes."""
    return b"".join(_SIZE.pack(len(element)) + element for element in elements)


def unpack_bytes(name: str, packed: bytes, shape: tuple[int, ...]) -> NDArray[np.object_]:
    """Read one string for each element of the shape from raw contents.

    Raises InvalidRequestError if their number is wrong, or if they are not UTF-8 as ONNX's strings.
    """
    texts: list[str] = []
    position, count = 0, math.prod(shape)
    if count > _MAX_STRINGS:
        raise InvalidRequestError(
            f"{name}.data", f"expected at most {_MAX_STRINGS} strings; got {count}", "TOO_MANY"
        )
    try:
        while position < len(packed) and len(texts) < count:
            (size,) = _SIZE.unpack_from(packed, position)
            begin, position = position + 4, position + 4 + size
            texts.append(packed[begin:position].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidRequestError(
            f"{name}.data",
            "expected UTF-8 strings, each after its length in four bytes",
            "INVALID_VALUE",
        ) from error
    if len(texts) != count or position != len(packed):
        raise InvalidRequestError(
            f"{name}.data",
            f"shape {list(shape)} takes {count} strings, each after its length in four bytes; got "
            f"{len(packed)} bytes that hold others",
            "BYTE_SIZE_MISMATCH",
        )
    array = np.empty(count, np.object_)  # np.array would cut trailing zeros off
    array[:] = texts
    return array.reshape(shape)


def _raw_contents(tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    field = _FIELDS.get(tensor.datatype)
    if field is None and tensor.datatype not in DTYPES:
        raise InvalidRequestError(
            f"{tensor.name}.datatype",
            f"expected one of {', '.join([*DTYPES, BYTES])}; got {quoted(tensor.datatype)}",
            "UNSUPPORTED_DTYPE",
        )
    if field is None:
        raise InvalidRequestError(
            f"{tensor.name}.contents",
            f"{tensor.datatype} has no typed contents: send it in raw_input_contents",
            "UNSUPPORTED_DTYPE",
        )
    for other, _ in tensor.contents.ListFields():
        if other.name != field:
            raise InvalidRequestError(
                f"{tensor.name}.contents",
                f"expected {field} for {tensor.datatype}; got {other.name}",
                "UNSUPPORTED_DTYPE",
            )
    elements: Sequence[int | float | bytes] = getattr(tensor.contents, field)
    if tensor.datatype == BYTES:
        return pack_bytes(elements)  # type: ignore[arg-type]  # they are
    dtype = DTYPES[tensor.datatype]
    array = np.array(elements, _WIDE_DTYPES.get(field, dtype))
    if array.dtype != dtype:
        _check_range(f"{tensor.name}.contents", array, tensor.datatype)
    return array.astype(dtype).tobytes()


def _check_range(field: str, array: NDArray[Any], datatype: str) -> None:
    """Raise InvalidRequestError for integers that the type does not hold, and NumPy would wrap."""
    limits = np.iinfo(DTYPES[datatype])
    outside = array[(array < limits.min) | (array > limits.max)]
    if outside.size:
        raise InvalidRequestError(
            field,
            f"expected integers from {limits.min} to {limits.max} for {datatype}; got {outside[0]}",
            "OUT_OF_RANGE",
        )
