"""Reads the parameters of a ModelInferRequest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead.v1 import attention_pb2 as v1
from polyhead_server.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyhead_server.inference import grpc_inference_pb2 as pb

    Parameters = Mapping[str, pb.InferParameter]

__all__ = ["named_selections", "read_bool", "set_selection", "timeout_us_of"]

_SELECTIONS = ("heads", "queries", "top_k", "average_heads", "stage")
_STAGES = {
    name.removeprefix("ATTN_WEIGHTS_STAGE_").lower(): number
    for name, number in v1.AttnWeightsStage.items()
    if number
}


def named_selections(parameters: Parameters) -> list[str]:
    """Return the names of the parameters that select attention weights."""
    return [name for name in _SELECTIONS if name in parameters]


def set_selection(selection: v1.AttnWeightsSelection, parameters: Parameters) -> None:
    """Set what the parameters select, and leave the rest. Raises InvalidRequestError."""
    if "heads" in parameters:
        selection.heads[:] = _read_indices("heads", parameters["heads"])
    if "queries" in parameters:
        selection.queries[:] = _read_indices("queries", parameters["queries"])
    if "top_k" in parameters:
        selection.top_k = _read_index("top_k", parameters["top_k"])
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
