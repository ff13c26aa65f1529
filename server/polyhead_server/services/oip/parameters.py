"""Reads the parameters of a ModelInferRequest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as v1
from polyhead_server.call import LayerName
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_server.inference import grpc_inference_pb2 as pb

    Parameters = Mapping[str, pb.InferParameter]

__all__ = [
    "BLOCK_PARAMETERS",
    "WHOLE_PARAMETERS",
    "named_selections",
    "read_bool",
    "read_index",
    "read_layer",
    "set_selection",
    "timeout_us_of",
]

_INTEGER = re.compile(r"[+-]?[0-9]+")
_MAX_DIGITS = 9  # of a layer's number
_SELECTIONS = ("heads", "queries", "top_k", "average_heads", "stage")
BLOCK_PARAMETERS = (*_SELECTIONS, "timeout")
"""The parameters that a request for an attention block may have."""
WHOLE_PARAMETERS = (*BLOCK_PARAMETERS, "first_layer", "last_layer", "truncate")
"""The parameters that a request for a whole model may have."""
_STAGES = {
    name.removeprefix("ATTN_WEIGHTS_STAGE_").lower(): number
    for name, number in v1.AttnWeightsStage.items()
    if number
}


def named_selections(parameters: Parameters) -> list[str]:
    """Return the names of the parameters that select attention weights."""
    return [name for name in _SELECTIONS if name in parameters]


def set_selection(
    selection: v1.AttnWeightsSelection, parameters: Parameters, words: list[str] | None = None
) -> None:
    """Set the selection by the parameters; leave the other fields. Raises InvalidRequestError.

    ``words``: gets the words among the queries; None means that words are refused.
    """
    if "heads" in parameters:
        selection.heads[:] = _read_indices("heads", parameters["heads"])
    if "queries" in parameters:
        selection.queries[:] = _read_indices("queries", parameters["queries"], words)
    if "top_k" in parameters:
        selection.top_k = read_index("top_k", parameters["top_k"])
    if "average_heads" in parameters:
        selection.average_heads = read_bool("average_heads", parameters["average_heads"])
    if "stage" in parameters:
        selection.stage = _read_stage(parameters["stage"])


def read_bool(name: str, parameter: pb.InferParameter) -> bool:
    """Read a bool. Raises InvalidRequestError."""
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise _invalid(name, "a bool", parameter)
    return parameter.bool_param


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


def _read_stage(parameter: pb.InferParameter) -> v1.AttnWeightsStage.ValueType:
    if parameter.string_param not in _STAGES:
        raise _invalid("stage", f"a string, one of {', '.join(_STAGES)}", parameter)
    return _STAGES[parameter.string_param]


def read_layer(name: str, parameter: pb.InferParameter) -> LayerName:
    """Read a layer: its number, or a string such as "decoder.3". Raises InvalidRequestError."""
    if parameter.WhichOneof("parameter_choice") != "string_param":
        return LayerName("", read_index(name, parameter))
    stack, _, number = parameter.string_param.rpartition(".")
    if not (number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS):
        raise _invalid(name, "a layer's number, or a string such as 'decoder.3'", parameter)
    return LayerName(stack, int(number))


def _read_indices(
    name: str, parameter: pb.InferParameter, words: list[str] | None = None
) -> list[int]:
    """Read one index, or several in a string such as "0,3,11", which may have words among them.

    ``words``: is filled with these words; None means that they are refused.
    """
    if words is not None:
        words.clear()
    if parameter.WhichOneof("parameter_choice") != "string_param":
        return [read_index(name, parameter)]
    parts = [part.strip() for part in parameter.string_param.strip("[]() ").split(",")]
    if words is not None:
        words += [part for part in parts if part and not _INTEGER.fullmatch(part)]
        parts = [part for part in parts if not part or _INTEGER.fullmatch(part)]
    try:
        indices = [int(part) for part in parts]
    except ValueError:
        expected = "an integer, or a string of integers such as '0,3,11'"
        if words is not None:
            expected = "an integer, or a string of words and integers such as 'bank,3'"
        raise _invalid(name, expected, parameter) from None
    if any(abs(index) >= 1 << 31 for index in indices):
        raise _invalid(name, "indices", parameter)
    return indices


def read_index(name: str, parameter: pb.InferParameter) -> int:
    """Read an integer of 31 bits. Raises InvalidRequestError."""
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
