"""Which attention weights are wanted, as an argument; see _arguments.py."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, get_args

import numpy as np

from polyhead._arguments.checks import (
    bad_value,
    checked_count,
    checked_float_dtype,
    checked_switch,
    invalid,
)
from polyhead.results import Stage, Weights
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["checked_need_output", "checked_selection"]

_MAX_INDEX = 2**31  # beyond what the contract's int32 holds
_STAGES: dict[str, pb.AttnWeightsStage.ValueType] = {
    "weights": pb.ATTN_WEIGHTS_STAGE_WEIGHTS,
    "scores": pb.ATTN_WEIGHTS_STAGE_SCORES,
    "masked": pb.ATTN_WEIGHTS_STAGE_MASKED,
}
assert tuple(_STAGES) == get_args(Stage)


def checked_selection(need_weights: object, q_seq_len: int) -> pb.AttnWeightsSelection | None:
    """Give the attention weights that are wanted; None: none."""
    if isinstance(need_weights, bool | np.bool_):
        return pb.AttnWeightsSelection() if need_weights else None
    if not isinstance(need_weights, Weights):
        raise bad_value(
            "need_weights",
            f"expected True, False or Weights(heads=..., queries=...); got {need_weights!r}",
            "attn_weights",
        )
    selection = pb.AttnWeightsSelection(
        heads=_checked_indices("heads", need_weights.heads, _MAX_INDEX, "num_heads"),
        queries=_checked_indices(
            "queries", need_weights.queries, q_seq_len, f"q_seq_len = {q_seq_len}"
        ),
        top_k=checked_count(
            "need_weights.top_k", need_weights.top_k, "all keys", "attn_weights.top_k"
        ),
        average_heads=checked_switch(
            "need_weights.average_heads", need_weights.average_heads, "attn_weights.average_heads"
        ),
    )
    selection.stage = _checked_stage(need_weights.stage)
    if need_weights.dtype is not None:
        selection.dtype = checked_float_dtype(
            "need_weights.dtype", need_weights.dtype, "attn_weights.dtype"
        )
    return selection


def checked_need_output(need_output: object, *, has_weights: bool) -> bool:
    """Give whether the output is wanted, which it must be where weights are not."""
    is_needed = checked_switch("need_output", need_output, "omit_output")
    if not (is_needed or has_weights):
        raise invalid(
            "need_output",
            "without output and without weights there is nothing to send: expected need_weights "
            "with need_output=False",
            "omit_output",
            "REQUIRED",
        )
    return is_needed


def _checked_stage(stage: object) -> pb.AttnWeightsStage.ValueType:
    if not isinstance(stage, str) or stage not in _STAGES:
        raise bad_value(
            "need_weights.stage",
            f"expected one of {', '.join(map(repr, _STAGES))}; got {stage!r}",
            "attn_weights.stage",
        )
    return _STAGES[stage]


def _checked_indices(name: str, indices: object, end: int, end_name: str) -> tuple[int, ...]:
    argument, field = f"need_weights.{name}", f"attn_weights.{name}"
    try:
        numbers = _as_indices(indices)
    except TypeError:
        message = f"expected an integer or a sequence of integers; got {indices!r}"
        raise bad_value(argument, message, field) from None
    if len(numbers) > end:
        message = f"expected at most {end_name} indices; got {len(numbers)}"
        raise invalid(argument, message, field, "TOO_MANY")
    for place, index in enumerate(numbers):
        if not 0 <= index < end:
            message = f"expected indices from 0 to below {end_name}; got {index}"
            raise invalid(argument, message, f"{field}[{place}]", "OUT_OF_RANGE")
    if len(set(numbers)) != len(numbers):
        twice = next(index for index in numbers if numbers.count(index) > 1)
        message = f"expected each index once; got {twice} more than once"
        raise invalid(argument, message, field, "DUPLICATE")
    return numbers


def _as_indices(indices: object) -> tuple[int, ...]:
    """One number or several. Raises TypeError for anything else, bools and text included."""
    if isinstance(indices, int | np.integer):
        values: Iterable[object] = (indices,)
    elif isinstance(indices, str | bytes) or not hasattr(indices, "__iter__"):
        raise TypeError
    else:
        values = indices
    return tuple(_as_index(value) for value in values)


def _as_index(value: object) -> int:
    if isinstance(value, bool | np.bool_):  # a mask is not a list of indices
        raise TypeError
    return operator.index(value)  # type: ignore[arg-type] # raises TypeError for what is none
