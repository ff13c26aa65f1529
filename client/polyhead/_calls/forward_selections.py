"""need_weights and head_vectors of forward -> a ForwardRequest's fields, and what must come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead import _checks as arguments
from polyhead._arguments.layers import checked_layer, layer_ref
from polyhead._arguments.vectors import canonical_vectors, vectors_message
from polyhead._arguments.weights import checked_layer_weights
from polyhead.results import Vectors, Weights
from polyhead.v1 import forward_pb2 as pb

if TYPE_CHECKING:
    from polyhead.results import LayerKey

_BOOLS = (bool, np.bool_)


@dataclass(frozen=True, slots=True)
class ExpectedWeights:
    """The attention weights of a layer, or of all layers, that a response must contain."""

    layer: LayerKey | None
    """None: all layers."""
    selection: Weights
    """Which of them; heads and queries are tuples of integers."""
    has_words: bool
    """Whether the response must say of which queries they are."""


@dataclass(frozen=True, slots=True)
class ExpectedVectors:
    """The vectors of heads of a layer, or of all layers, that a response must contain."""

    layer: LayerKey | None
    """None: all layers."""
    selection: Vectors
    """Which of them; kinds, heads, queries and keys are tuples."""


def add_weights(request: pb.ForwardRequest, need_weights: object) -> tuple[ExpectedWeights, ...]:
    """Ask for attention weights; return what the response must contain."""
    if isinstance(need_weights, _BOOLS) and not need_weights:
        return ()
    if not isinstance(need_weights, (*_BOOLS, Weights, Mapping)):
        raise arguments.bad_value(
            "need_weights",
            "expected True, False, Weights, or a mapping from layers such as {3: True}; got "
            f"{need_weights!r}",
            "attn_weights[0]",
        )
    wanted: Mapping[Any, object] = {None: need_weights}
    if isinstance(need_weights, Mapping):
        wanted = need_weights
    expected = []
    for index, (key, value) in enumerate(wanted.items()):
        name, field, layer = "need_weights", f"attn_weights[{index}]", None
        if isinstance(need_weights, Mapping):
            layer = checked_layer(name, key, f"{field}.layer")
            name = f"need_weights[{layer!r}]"
        weights = checked_layer_weights(value, name, field, has_texts=bool(request.texts))
        message = pb.LayerWeights(selection=weights.message, query_words=weights.words)
        if layer is not None:
            message.layer.CopyFrom(layer_ref(layer))
        request.attn_weights.append(message)
        expected.append(ExpectedWeights(layer, weights.selection, bool(weights.words)))
    return tuple(expected)


def add_vectors(request: pb.ForwardRequest, head_vectors: object) -> tuple[ExpectedVectors, ...]:
    """Ask for vectors of heads; return what the response must contain."""
    if isinstance(head_vectors, _BOOLS) and not head_vectors:
        return ()
    if not isinstance(head_vectors, (*_BOOLS, Vectors, Mapping)):
        raise arguments.bad_value(
            "head_vectors",
            "expected True, False, Vectors, or a mapping from layers such as {3: True}; got "
            f"{head_vectors!r}",
            "head_vectors[0]",
        )
    wanted: Mapping[Any, object] = {None: head_vectors}
    if isinstance(head_vectors, Mapping):
        wanted = head_vectors
    expected = []
    for index, (key, value) in enumerate(wanted.items()):
        name, field, layer = "head_vectors", f"head_vectors[{index}]", None
        if isinstance(head_vectors, Mapping):
            layer = checked_layer(name, key, f"{field}.layer")
            name = f"head_vectors[{layer!r}]"
        vectors = canonical_vectors(value, name, f"{field}.selection")
        if vectors is None:
            raise arguments.bad_value(name, f"expected True or Vectors; got {value!r}", field)
        selection = vectors_message(vectors, name, f"{field}.selection")
        message = pb.LayerHeadVectors(selection=selection)
        if layer is not None:
            message.layer.CopyFrom(layer_ref(layer))
        request.head_vectors.append(message)
        expected.append(ExpectedVectors(layer, vectors.selection()))
    return tuple(expected)
