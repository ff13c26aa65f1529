"""Check need_weights and need_output. _checks.py describes the errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from polyhead._arguments.indices import MAX_INDEX, check_indices, checked_indices
from polyhead._checks import (
    bad_value,
    checked_count,
    checked_float_dtype,
    checked_switch,
    checked_text,
    invalid,
)
from polyhead.results import Stage, Weights
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

_BOOLS = (bool, np.bool_)
_STAGES: dict[Stage, pb.AttnWeightsStage.ValueType] = {
    "weights": pb.ATTN_WEIGHTS_STAGE_WEIGHTS,
    "scores": pb.ATTN_WEIGHTS_STAGE_SCORES,
    "masked": pb.ATTN_WEIGHTS_STAGE_MASKED,
}
assert tuple(_STAGES) == get_args(Stage)


class CanonicalWeights(NamedTuple):
    """The fields of Weights, in one form for each meaning, so that a cache can use them as key."""

    heads: tuple[int, ...]
    queries: tuple[int, ...]
    top_k: int
    average_heads: bool
    stage: Stage
    dtype: DTypeLike | None


class _Names(NamedTuple):
    """The names of a Weights in errors: the caller's argument, and the contract's field."""

    argument: str = "need_weights"
    field: str = "attn_weights"

    def of(self, part: str) -> tuple[str, str]:
        """Return the names of a part."""
        return f"{self.argument}.{part}", f"{self.field}.{part}"


_ATTEND = _Names()


def canonical_weights(need_weights: object, names: _Names = _ATTEND) -> bool | CanonicalWeights:
    """Return need_weights as a bool or CanonicalWeights."""
    if isinstance(need_weights, _BOOLS):
        return bool(need_weights)
    if not isinstance(need_weights, Weights):
        raise bad_value(
            names.argument,
            f"expected True, False or Weights(heads=..., queries=...); got {need_weights!r}",
            names.field,
        )
    stage: object = need_weights.stage
    if not (isinstance(stage, str) and stage in _STAGES):
        name, field = names.of("stage")
        expected = ", ".join(map(repr, _STAGES))
        raise bad_value(name, f"expected one of {expected}; got {stage!r}", field)
    name, field = names.of("top_k")
    top_k = checked_count(name, need_weights.top_k, "all keys", field)
    name, field = names.of("average_heads")
    return CanonicalWeights(
        _checked_ints(names.of("heads"), need_weights.heads),
        _checked_ints(names.of("queries"), need_weights.queries),
        top_k,
        checked_switch(name, need_weights.average_heads, field),
        need_weights.stage,
        need_weights.dtype,
    )


def make_selection(
    need_weights: bool | CanonicalWeights,  # noqa: FBT001 - as attend takes it
    q_seq_len: int | None,
    names: _Names = _ATTEND,
) -> pb.AttnWeightsSelection | None:
    """Make the message that selects attention weights; None if no weights are requested.

    ``q_seq_len``: None if it is not known.
    """
    if isinstance(need_weights, bool):
        return pb.AttnWeightsSelection() if need_weights else None
    check_indices(*names.of("heads"), need_weights.heads, MAX_INDEX, "num_heads")
    if q_seq_len is None:
        check_indices(*names.of("queries"), need_weights.queries, MAX_INDEX, "q_seq_len")
    else:
        end_name = f"q_seq_len = {q_seq_len}"
        check_indices(*names.of("queries"), need_weights.queries, q_seq_len, end_name)
    selection = pb.AttnWeightsSelection(
        heads=need_weights.heads,
        queries=need_weights.queries,
        top_k=need_weights.top_k,
        average_heads=need_weights.average_heads,
        stage=_STAGES[need_weights.stage],
    )
    if need_weights.dtype is not None:
        name, field = names.of("dtype")
        selection.dtype = checked_float_dtype(name, need_weights.dtype, field)
    return selection


class LayerWeights(NamedTuple):
    """The attention weights of one layer that a call of forward requests."""

    selection: Weights
    """The selected weights; heads and queries are tuples of integers."""
    message: pb.AttnWeightsSelection
    """The selection as a message."""
    words: tuple[str, ...]
    """Words of the texts. The rows of their last tokens are requested, too."""


def checked_layer_weights(
    need_weights: object, argument: str, field: str, *, has_texts: bool
) -> LayerWeights:
    """Return the weights of a layer that forward requests: all for True, some for Weights."""
    names = _Names(argument, f"{field}.selection")
    words: tuple[str, ...] = ()
    if isinstance(need_weights, Weights):
        indices, words = _split_words(need_weights.queries)
        need_weights = replace(need_weights, queries=indices)
    elif not (isinstance(need_weights, _BOOLS) and need_weights):
        raise bad_value(argument, f"expected True or Weights; got {need_weights!r}", field)
    if words and not has_texts:
        raise invalid(
            f"{argument}.queries",
            f"only texts have words; got {words[0]!r}: expected text, or indices of queries",
            f"{field}.query_words",
            "NOT_APPLICABLE",
        )
    for word in words:
        checked_text(f"{argument}.queries", word, f"{field}.query_words")
    if len(set(words)) != len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise invalid(
            f"{argument}.queries",
            f"expected each word once; got {twice!r} more than once",
            f"{field}.query_words",
            "DUPLICATE",
        )
    canonical = canonical_weights(need_weights, names)
    message = make_selection(canonical, None, names)
    assert message is not None  # as need_weights is True or Weights
    selection = Weights()
    if not isinstance(canonical, bool):
        selection = Weights(**canonical._asdict() | {"top_k": canonical.top_k or None})
    return LayerWeights(selection, message, words)


def _split_words(queries: object) -> tuple[Any, tuple[str, ...]]:
    """Separate words from indices. Other values stay among the indices, which are checked later."""
    if isinstance(queries, str):
        return (), (queries,)
    if not isinstance(queries, Iterable) or isinstance(queries, bytes):
        return queries, ()
    listed = list(queries)
    words = tuple(str(query) for query in listed if isinstance(query, str))
    return tuple(query for query in listed if not isinstance(query, str)), words


def checked_need_output(need_output: object, *, has_others: bool) -> bool:
    """Return need_output. It must be True if neither weights nor vectors are requested."""
    is_needed = checked_switch("need_output", need_output, "omit_output")
    if not (is_needed or has_others):
        raise invalid(
            "need_output",
            "without output, weights and vectors there is nothing to send: expected need_weights "
            "or head_vectors with need_output=False",
            "omit_output",
            "REQUIRED",
        )
    return is_needed


def _checked_ints(names: tuple[str, str], indices: object) -> tuple[int, ...]:
    name, field = names
    advice = ""
    if name.endswith("queries") and _split_words(indices)[1]:
        advice = ": words select rows in forward only, which takes texts"
    return checked_indices(name, indices, field, advice)
