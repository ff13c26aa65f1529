"""Converts a ModelInferRequest for an attention block to the equivalent AttendRequest.

It is then checked and run as an AttendRequest. The only tensor that is read here is kv_lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead.v1 import attention_pb2 as v1
from polyhead_server.call import TENSORS
from polyhead_server.errors import InvalidRequestError, listed, quoted
from polyhead_server.head_vectors import KINDS
from polyhead_server.services.oip.datatypes import DATATYPES, DTYPES
from polyhead_server.services.oip.parameters import named_selections, set_selection

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = [
    "KV_LENGTHS",
    "OUTPUTS",
    "VECTORS",
    "to_attend_request",
    "version_of",
    "requested_outputs",
]

KV_LENGTHS = "kv_lengths"
VECTORS = {f"head_{kind}": kind for kind in KINDS}
"""Kinds of heads' vectors by the names of outputs."""
OUTPUTS = ("output", "attn_weights", "top_keys", *VECTORS)
_INPUTS = (*TENSORS, KV_LENGTHS)


def version_of(text: str, field: str) -> int:
    """Read a model's version; 0: the newest. Raises InvalidRequestError."""
    if not text:
        return 0
    if text.isascii() and text.isdigit() and len(text) <= 18 and int(text):
        return int(text)
    raise InvalidRequestError(
        field,
        f"expected a whole number from 1, or nothing for the newest; got {quoted(text)}",
        "INVALID_VALUE",
    )


def requested_outputs(
    request: pb.ModelInferRequest, valid_names: Collection[str], summary: str = ""
) -> list[str]:
    """Return the names of the requested outputs. Raises InvalidRequestError.

    ``summary``: describes the valid names in error messages; empty: all are listed.
    """
    expected = summary or listed(valid_names)
    names = [output.name for output in request.outputs]
    for index, name in enumerate(names):
        if name not in valid_names:
            raise InvalidRequestError(
                f"outputs[{index}].name", f"expected one of {expected}; got {quoted(name)}",
                "INVALID_NAME",
            )  # fmt: skip
        if name in names[:index]:
            raise InvalidRequestError(
                f"outputs[{index}].name", f"{quoted(name)} is named twice", "DUPLICATE"
            )
    return names


def checked_inputs(
    request: pb.ModelInferRequest, valid_names: Collection[str]
) -> Iterator[pb.ModelInferRequest.InferInputTensor]:
    """Yield the inputs. Raises InvalidRequestError for an unknown or a repeated name."""
    names: set[str] = set()
    for index, tensor in enumerate(request.inputs):
        if tensor.name not in valid_names:
            raise InvalidRequestError(
                f"inputs[{index}].name",
                f"expected one of {listed(valid_names)}; got {quoted(tensor.name)}",
                "INVALID_NAME",
            )
        if tensor.name in names:
            raise InvalidRequestError(
                f"inputs[{index}].name", f"{quoted(tensor.name)} is given twice", "DUPLICATE"
            )
        names.add(tensor.name)
        yield tensor


def to_attend_request(
    request: pb.ModelInferRequest, outputs: Sequence[str], kv_lengths: bytes
) -> v1.AttendRequest:
    """Make the equivalent AttendRequest, without the tensors' elements.

    ``kv_lengths``: the elements of that input. Raises InvalidRequestError.
    """
    message = v1.AttendRequest(
        model=request.model_name,
        model_version=version_of(request.model_version, "model_version"),
        omit_output="output" not in outputs,
    )
    for tensor in checked_inputs(request, _INPUTS):
        if tensor.name == KV_LENGTHS:
            message.kv_lengths.extend(_read_kv_lengths(tensor, kv_lengths))
        else:
            layout = getattr(message, tensor.name)
            layout.dtype = _read_datatype(tensor)
            layout.shape.extend(tensor.shape)
            layout.SetInParent()
    _set_selection(message, request, outputs)
    kinds = [VECTORS[name] for name in outputs if name in VECTORS]
    if kinds:
        numbers = [v1.HeadVectorKind.Value(f"HEAD_VECTOR_KIND_{kind.upper()}") for kind in kinds]
        message.head_vectors.kinds.extend(numbers)
    return message


def _read_datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> v1.DataType.ValueType:
    if tensor.datatype not in DATATYPES:
        raise InvalidRequestError(
            f"{tensor.name}.datatype",
            f"expected one of {', '.join(DATATYPES)}; got {quoted(tensor.datatype)}",
            "UNSUPPORTED_DTYPE",
        )
    return DATATYPES[tensor.datatype]


def _read_kv_lengths(tensor: pb.ModelInferRequest.InferInputTensor, elements: bytes) -> list[int]:
    if tensor.datatype not in {"INT32", "INT64"}:
        raise InvalidRequestError(
            f"{KV_LENGTHS}.datatype",
            f"expected INT32 or INT64; got {quoted(tensor.datatype)}",
            "UNSUPPORTED_DTYPE",
        )
    dtype = DTYPES[tensor.datatype]
    if len(tensor.shape) != 1 or tensor.shape[0] * dtype.itemsize != len(elements):
        raise InvalidRequestError(
            f"{KV_LENGTHS}.shape",
            f"expected one axis, (batch_size,), and as many {tensor.datatype} as that says; got "
            f"{list(tensor.shape)} and {len(elements)} bytes",
            "SHAPE_MISMATCH",
        )
    lengths = np.frombuffer(elements, dtype)
    if lengths.size and not 0 <= lengths.min() <= lengths.max() < 1 << 31:
        raise InvalidRequestError(KV_LENGTHS, "expected lengths of 0 or more", "OUT_OF_RANGE")
    values: list[int] = lengths.tolist()
    return values


def _set_selection(
    message: v1.AttendRequest, request: pb.ModelInferRequest, outputs: Sequence[str]
) -> None:
    """Set the selection of weights, if an output of weights is named."""
    if not {"attn_weights", "top_keys"} & {*outputs}:
        for name in named_selections(request.parameters):
            raise InvalidRequestError(
                f"parameters.{name}",
                "selects attn_weights, which is not among the requested outputs: name it there",
                "UNEXPECTED",
            )
        return
    message.attn_weights.SetInParent()
    set_selection(message.attn_weights, request.parameters)
    if "top_keys" in outputs and message.attn_weights.top_k < 1:
        raise InvalidRequestError(
            "outputs", "top_keys exists only with the parameter top_k: set it", "REQUIRED"
        )
