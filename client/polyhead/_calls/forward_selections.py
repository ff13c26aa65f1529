"""need_weights and head_vectors of forward -> a ForwardRequest's fields, and what must come."""

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


def _by_layer(
    argument: object, name: str, message_field: str, kind: type[Weights | Vectors]
) -> Iterator[tuple[str, str, LayerKey | None, object]]:
    """Yield what is wanted of each layer: its name and its field in errors, the layer, the value.

    The layer is None where the argument is for all layers. Nothing is yielded for False.
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
    """Ask for attention weights; return what the response must contain."""
    expected = []
    wanted = _by_layer(need_weights, "need_weights", "attn_weights", Weights)
    for name, field, layer, value in wanted:
        weights = checked_layer_weights(value, name, field, has_texts=bool(request.texts))
        message = pb.LayerWeights(selection=weights.message, query_words=weights.words)
        if layer is not None:
            message.layer.CopyFrom(layer_ref(layer))
        request.attn_weights.append(message)
        expected.append(ExpectedWeights(layer, weights.selection, bool(weights.words)))
    return tuple(expected)


def add_vectors(request: pb.ForwardRequest, head_vectors: object) -> tuple[ExpectedVectors, ...]:
    """Ask for vectors of heads; return what the response must contain."""
    expected = []
    wanted = _by_layer(head_vectors, "head_vectors", "head_vectors", Vectors)
    for name, field, layer, value in wanted:
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
