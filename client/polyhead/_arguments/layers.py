"""Check the names of layers. _checks.py describes the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, cast

import numpy as np

from polyhead._checks import bad_value, invalid, is_iterable
from polyhead.v1 import forward_pb2 as pb

if TYPE_CHECKING:
    from polyhead.results import LayerKey

_STACKS = ("encoder", "decoder", "text", "vision")
_ATTENTIONS = (*_STACKS, "cross")
_MAX_LAYER = 2**31 - 1  # the contract's int32


def checked_layer(name: str, value: object, field: str, *, is_attention: bool = True) -> LayerKey:
    """Return a layer's number, or a pair of its stack and its number.

    ``is_attention``: whether the name stands for an attention block, so that it may be a decoder's
    cross-attention.
    """
    stacks = _ATTENTIONS if is_attention else _STACKS
    is_pair = isinstance(value, tuple) and len(value) == 2
    stack, number = cast("tuple[object, object]", value) if is_pair else (None, value)
    if not _is_whole(number) or (is_pair and stack not in stacks):
        raise bad_value(
            name,
            f"expected a layer's number from 0, or a pair such as ({stacks[-1]!r}, 0) of a number "
            f"and one of {', '.join(stacks)}; got {value!r}",
            field,
        )
    number = _checked_number(name, number, field)
    return (cast("str", stack), number) if is_pair else number


def checked_layer_number(name: str, value: object) -> int:
    """Return a layer's number. A pair with a stack is refused."""
    if not _is_whole(value):
        raise bad_value(name, f"expected a layer's number from 0; got {value!r}")
    return _checked_number(name, value, name)


def _checked_number(name: str, number: int, field: str) -> int:
    if not 0 <= number <= _MAX_LAYER:
        message = f"layers are counted from 0; got {number}"
        raise invalid(name, message, field, "OUT_OF_RANGE")
    return int(number)


def checked_layers(name: str, value: object, field: str) -> tuple[LayerKey, ...]:
    """Return the layers whose hidden states are requested: one, or several, none repeated."""
    is_one = _is_whole(value) or (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    )
    if not is_one and (isinstance(value, str | bytes) or not is_iterable(value)):
        raise bad_value(
            name, f"expected True, False, a layer or a sequence of layers; got {value!r}", field
        )
    layers = [value] if is_one else list(value)  # type: ignore[call-overload] # it is iterable
    checked = tuple(
        checked_layer(name, layer, f"{field}[{index}]", is_attention=False)
        for index, layer in enumerate(layers)
    )
    if len(set(checked)) != len(checked):
        twice = next(layer for layer in checked if checked.count(layer) > 1)
        message = f"expected each layer once; got {twice!r} more than once"
        raise invalid(name, message, field, "DUPLICATE")
    return checked


def layer_ref(layer: LayerKey) -> pb.LayerRef:
    """Write a layer as a message."""
    if not isinstance(layer, tuple):
        return pb.LayerRef(layer=layer)
    stack, number = layer
    if stack == "cross":
        return pb.LayerRef(stack="decoder", layer=number, kind="cross")
    return pb.LayerRef(stack=stack, layer=number)


def layer_key(ref: pb.LayerRef) -> LayerKey:
    """Read a layer of a response."""
    stack = "cross" if ref.kind == "cross" else ref.stack
    return (stack, ref.layer) if stack else ref.layer


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
