"""Check need_weights and need_output; see _checks.py."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple, cast, get_args

import numpy as np

from polyhead._checks import bad_value, checked_count, checked_float_dtype, checked_switch, invalid
from polyhead.results import Stage, Weights
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import DTypeLike

_BOOLS = (bool, np.bool_)
_INT = {int}
_MAX_INDEX = 2**31  # the contract's int32 holds smaller ones
_STAGES: dict[Stage, pb.AttnWeightsStage.ValueType] = {
    "weights": pb.ATTN_WEIGHTS_STAGE_WEIGHTS,
    "scores": pb.ATTN_WEIGHTS_STAGE_SCORES,
    "masked": pb.ATTN_WEIGHTS_STAGE_MASKED,
}
assert tuple(_STAGES) == get_args(Stage)


class CanonicalWeights(NamedTuple):
    """The fields of Weights, with types such that equal values mean the same (1 equals True)."""

    heads: tuple[int, ...]
    queries: tuple[int, ...]
    top_k: int
    average_heads: bool
    stage: Stage
    dtype: DTypeLike | None


def canonical_weights(need_weights: object) -> bool | CanonicalWeights:
    """Return need_weights in a form that can be the key of a cache."""
    if isinstance(need_weights, _BOOLS):
        return bool(need_weights)
    if not isinstance(need_weights, Weights):
        raise bad_value(
            "need_weights",
            f"expected True, False or Weights(heads=..., queries=...); got {need_weights!r}",
            "attn_weights",
        )
    stage: object = need_weights.stage
    if not (isinstance(stage, str) and stage in _STAGES):
        raise bad_value(
            "need_weights.stage",
            f"expected one of {', '.join(map(repr, _STAGES))}; got {stage!r}",
            "attn_weights.stage",
        )
    return CanonicalWeights(
        _checked_ints("heads", need_weights.heads),
        _checked_ints("queries", need_weights.queries),
        checked_count("need_weights.top_k", need_weights.top_k, "all keys", "attn_weights.top_k"),
        checked_switch(
            "need_weights.average_heads", need_weights.average_heads, "attn_weights.average_heads"
        ),
        need_weights.stage,
        need_weights.dtype,
    )


def make_selection(
    need_weights: bool | CanonicalWeights,  # noqa: FBT001 - as attend takes it
    q_seq_len: int,
) -> pb.AttnWeightsSelection | None:
    """Make the message that selects attention weights; None if none are wanted."""
    if isinstance(need_weights, bool):
        return pb.AttnWeightsSelection() if need_weights else None
    _check_indices("heads", need_weights.heads, _MAX_INDEX, "num_heads")
    _check_indices("queries", need_weights.queries, q_seq_len, f"q_seq_len = {q_seq_len}")
    selection = pb.AttnWeightsSelection(
        heads=need_weights.heads,
        queries=need_weights.queries,
        top_k=need_weights.top_k,
        average_heads=need_weights.average_heads,
        stage=_STAGES[need_weights.stage],
    )
    if need_weights.dtype is not None:
        selection.dtype = checked_float_dtype(
            "need_weights.dtype", need_weights.dtype, "attn_weights.dtype"
        )
    return selection


def checked_need_output(need_output: object, *, has_weights: bool) -> bool:
    """Return whether the output is wanted; it must be if no weights are."""
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


def _checked_ints(name: str, indices: object) -> tuple[int, ...]:
    """Return one integer or several as a tuple; bools and text are refused."""
    try:
        if isinstance(indices, tuple) and set(map(type, indices)) <= _INT:  # the usual case
            return indices
        if isinstance(indices, int | np.integer):
            return (_as_index(indices),)
        if not isinstance(indices, str | bytes):
            return tuple(_as_index(index) for index in cast("Iterable[object]", indices))
    except TypeError:
        pass
    message = f"expected an integer or a sequence of integers; got {indices!r}"
    raise bad_value(f"need_weights.{name}", message, f"attn_weights.{name}")


def _as_index(value: object) -> int:
    if isinstance(value, _BOOLS):  # a mask is not a list of indices
        raise TypeError
    return operator.index(value)  # type: ignore[arg-type] # raises TypeError for other types


def _check_indices(name: str, indices: Sequence[int], end: int, end_name: str) -> None:
    argument, field = f"need_weights.{name}", f"attn_weights.{name}"
    if len(indices) > end:
        message = f"expected at most {end_name} indices; got {len(indices)}"
        raise invalid(argument, message, field, "TOO_MANY")
    for position, index in enumerate(indices):
        if not 0 <= index < end:
            message = f"expected indices from 0 to below {end_name}; got {index}"
            raise invalid(argument, message, f"{field}[{position}]", "OUT_OF_RANGE")
    if len(set(indices)) != len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        message = f"expected each index once; got {twice} more than once"
        raise invalid(argument, message, field, "DUPLICATE")
