"""need_weights and head_vectors of forward -> fields of a ForwardRequest, and expected contents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead import _checks as arguments
from polyhead._arguments.layers import checked_layer, layer_ref
from polyhead._arguments.vectors import canonical_vectors, vectors_message
from polyhead._arguments.weights import checked_layer_weights
from polyhead.results import Vectors, Weights
from polyhead.v1 import forward_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.results import LayerKey

_BOOLS = (bool, np.bool_)


@dataclass(frozen=True, slots=True)
class ExpectedWeights:
    """The attention weights of a layer, or of all layers, that a response must contain."""

    layer: LayerKey | None
    """None means all layers."""
    selection: Weights
    """The selected ones; heads and queries are tuples of integers."""
    has_words: bool
    """Whether words select queries, so that the response must have the queries' indices."""


@dataclass(frozen=True, slots=True)
class ExpectedVectors:
    """The vectors of heads of a layer, or of all layers, that a response must contain."""

    layer: LayerKey | None
    """None means all layers."""
    selection: Vectors
    """The selected ones; kinds, heads, queries and keys are tuples."""


def _by_layer(
    argument: object, name: str, message_field: str, kind: type[Weights | Vectors]
) -> Iterator[tuple[str, str, LayerKey | None, object]]:
    """Yield an argument's value for each layer: names of argument and field, the layer, the value.

    The names are for errors. The layer is None if the value is for all layers. False yields
    nothing.
    """
    if isinstance(argument, _BOOLS) and not argument:
        return
    if isinstance(argument, Mapping):
        for index, (key, value) in enumerate(argument.items()):
            field = f"{message_field}[{index}]"
            layer = checked_layer(name, key, f"{field}.layer")
            yield f"{name}[{layer!r}]", field, layer, value
        return
    field = f"{message_field}[0]"
    if not isinstance(argument, (*_BOOLS, kind)):
        raise arguments.bad_value(
            name,
            f"expected True, False, {kind.__name__}, or a mapping from layers such as {{3: True}}; "
            f"got {argument!r}",
            field,
        )
    yield name, field, None, argument


def add_weights(request: pb.ForwardRequest, need_weights: object) -> tuple[ExpectedWeights, ...]:
    """Request attention weights; return what the response must contain."""
    expected = []
    by_layer = _by_layer(need_weights, "need_weights", "attn_weights", Weights)
    for name, field, layer, value in by_layer:
        weights = checked_layer_weights(value, name, field, has_texts=bool(request.texts))
        message = pb.LayerWeights(selection=weights.message, query_words=weights.words)
        if layer is not None:
            message.layer.CopyFrom(layer_ref(layer))
        request.attn_weights.append(message)
        expected.append(ExpectedWeights(layer, weights.selection, bool(weights.words)))
    return tuple(expected)


def add_vectors(request: pb.ForwardRequest, head_vectors: object) -> tuple[ExpectedVectors, ...]:
    """Request vectors of heads; return what the response must contain."""
    expected = []
    by_layer = _by_layer(head_vectors, "head_vectors", "head_vectors", Vectors)
    for name, field, layer, value in by_layer:
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
