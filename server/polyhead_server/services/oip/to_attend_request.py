"""Converts a ModelInferRequest for an attention block to the equivalent AttendRequest.

It is then checked and run as an AttendRequest. Of the tensors only key lengths are read here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead.v1 import attention_pb2 as v1
from polyhead_server.call import TENSORS
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.oip.datatypes import DATATYPES, DTYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from polyhead_server.inference import grpc_inference_pb2 as pb

__all__ = [
    "KV_LENGTHS",
    "OUTPUTS",
    "to_attend_request",
    "timeout_us_of",
    "version_of",
    "wanted_outputs",
]

KV_LENGTHS = "kv_lengths"
OUTPUTS = ("output", "attn_weights", "top_keys")
_INPUTS = (*TENSORS, KV_LENGTHS)
_SELECTION_PARAMETERS = ("heads", "queries", "top_k", "average_heads", "stage")
_STAGES = {
    name.removeprefix("ATTN_WEIGHTS_STAGE_").lower(): number
    for name, number in v1.AttnWeightsStage.items()
    if number
}


def version_of(text: str, field: str) -> int:
    """Read a model's version; 0: the newest. Raises InvalidRequestError."""
    if not text:
        return 0
    if text.isascii() and text.isdigit() and len(text) <= 18 and int(text):
        return int(text)
    raise InvalidRequestError(
        field, f"expected a whole number, or nothing for the newest; got {text!r}", "INVALID_VALUE"
    )


def wanted_outputs(request: pb.ModelInferRequest, known: Sequence[str]) -> list[str]:
    """Return the names of the wanted outputs. Raises InvalidRequestError."""
    names = [output.name for output in request.outputs]
    for index, name in enumerate(names):
        if name not in known:
            raise InvalidRequestError(
                f"outputs[{index}].name", f"expected one of {', '.join(known)}; got {name!r}",
                "INVALID_NAME",
            )  # fmt: skip
        if name in names[:index]:
            raise InvalidRequestError(
                f"outputs[{index}].name", f"{name!r} is asked for twice", "DUPLICATE"
            )
    return names


def named_inputs(
    request: pb.ModelInferRequest, known: Collection[str]
) -> Iterator[pb.ModelInferRequest.InferInputTensor]:
    """Yield the inputs. Raises InvalidRequestError for an unknown or a repeated name."""
    names: set[str] = set()
    for index, tensor in enumerate(request.inputs):
        if tensor.name not in known:
            raise InvalidRequestError(
                f"inputs[{index}].name",
                f"expected one of {', '.join(known)}; got {tensor.name!r}",
                "INVALID_NAME",
            )
        if tensor.name in names:
            raise InvalidRequestError(
                f"inputs[{index}].name", f"{tensor.name!r} is given twice", "DUPLICATE"
            )
        names.add(tensor.name)
        yield tensor


def timeout_us_of(request: pb.ModelInferRequest) -> int:
    """Return the microseconds that the caller waits, the parameter `timeout`; 0: not set.

    Raises InvalidRequestError.
    """
    if "timeout" not in request.parameters:
        return 0
    parameter = request.parameters["timeout"]
    choice = parameter.WhichOneof("parameter_choice")
    value = parameter.int64_param if choice == "int64_param" else parameter.uint64_param
    if choice not in {"int64_param", "uint64_param"} or not 0 <= value < 1 << 63:
        raise _invalid("timeout", "microseconds, an integer of 0 or more", parameter)
    return value


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
    for tensor in named_inputs(request, _INPUTS):
        if tensor.name == KV_LENGTHS:
            message.kv_lengths.extend(_read_kv_lengths(tensor, kv_lengths))
        else:
            layout = getattr(message, tensor.name)
            layout.dtype = _read_datatype(tensor)
            layout.shape.extend(tensor.shape)
            layout.SetInParent()
    _set_selection(message, request, outputs)
    return message


def _read_datatype(tensor: pb.ModelInferRequest.InferInputTensor) -> v1.DataType.ValueType:
    if tensor.datatype not in DATATYPES:
        raise InvalidRequestError(
            f"{tensor.name}.datatype",
            f"expected one of {', '.join(DATATYPES)}; got {tensor.datatype!r}",
            "UNSUPPORTED_DTYPE",
        )
    return DATATYPES[tensor.datatype]


def _read_kv_lengths(tensor: pb.ModelInferRequest.InferInputTensor, elements: bytes) -> list[int]:
    if tensor.datatype not in {"INT32", "INT64"}:
        raise InvalidRequestError(
            f"{KV_LENGTHS}.datatype",
            f"expected INT32 or INT64; got {tensor.datatype!r}",
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
    found: list[int] = lengths.tolist()
    return found


def _set_selection(
    message: v1.AttendRequest, request: pb.ModelInferRequest, outputs: Sequence[str]
) -> None:
    """Set which weights are wanted, if an output of weights is named."""
    parameters = request.parameters
    selecting = [name for name in _SELECTION_PARAMETERS if name in parameters]
    if not {"attn_weights", "top_keys"} & {*outputs}:
        if selecting:
            raise InvalidRequestError(
                f"parameters.{selecting[0]}",
                "is about attn_weights, which is not among the outputs asked for: name it there",
                "UNEXPECTED",
            )
        return
    selection = message.attn_weights
    selection.SetInParent()
    if "heads" in parameters:
        selection.heads.extend(_read_indices("heads", parameters["heads"]))
    if "queries" in parameters:
        selection.queries.extend(_read_indices("queries", parameters["queries"]))
    if "top_k" in parameters:
        selection.top_k = _read_index("top_k", parameters["top_k"])
    if "average_heads" in parameters:
        parameter = parameters["average_heads"]
        if parameter.WhichOneof("parameter_choice") != "bool_param":
            raise _invalid("average_heads", "a bool", parameter)
        selection.average_heads = parameter.bool_param
    if "stage" in parameters:
        selection.stage = _read_stage(parameters["stage"])
    if "top_keys" in outputs and selection.top_k < 1:
        raise InvalidRequestError(
            "outputs", "top_keys exists only with the parameter top_k: set it", "REQUIRED"
        )


def _read_stage(parameter: pb.InferParameter) -> v1.AttnWeightsStage.ValueType:
    if parameter.string_param not in _STAGES:
        raise _invalid("stage", f"a string, one of {', '.join(_STAGES)}", parameter)
    return _STAGES[parameter.string_param]


def _read_indices(name: str, parameter: pb.InferParameter) -> list[int]:
    """Read one index, or several in a string such as "0,3,11"."""
    if parameter.WhichOneof("parameter_choice") != "string_param":
        return [_read_index(name, parameter)]
    parts = parameter.string_param.strip("[]() ").split(",")
    try:
        found = [int(part) for part in parts]
    except ValueError:
        raise _invalid(
            name, "an integer, or a string of integers such as '0,3,11'", parameter
        ) from None
    if any(abs(index) >= 1 << 31 for index in found):
        raise _invalid(name, "indices", parameter)
    return found


def _read_index(name: str, parameter: pb.InferParameter) -> int:
    choice = parameter.WhichOneof("parameter_choice")
    value = parameter.int64_param if choice == "int64_param" else parameter.uint64_param
    if choice not in {"int64_param", "uint64_param"} or abs(value) >= 1 << 31:
        raise _invalid(name, "an integer", parameter)
    return value


def _invalid(name: str, expected: str, parameter: pb.InferParameter) -> InvalidRequestError:
    choice = parameter.WhichOneof("parameter_choice")
    got = repr(getattr(parameter, choice))[:80] if choice else "nothing"
    return InvalidRequestError(
        f"parameters.{name}", f"expected {expected}; got {got}", "INVALID_VALUE"
    )
