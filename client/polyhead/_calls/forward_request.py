"""Arguments of forward -> a ForwardRequest, and the contents that its response must have."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead import _checks as arguments
from polyhead._arguments.arrays import (
    ArraySpec,
    check_size,
    checked_floats,
    checked_lengths,
    checked_token_ids,
)
from polyhead._arguments.layers import (
    checked_layer,
    checked_layer_number,
    checked_layers,
    layer_ref,
)
from polyhead._calls.forward_selections import add_vectors, add_weights
from polyhead.v1 import forward_pb2 as pb
from polyhead.wire.tensors import to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray

    from polyhead._calls.forward_selections import ExpectedVectors, ExpectedWeights
    from polyhead.results import LayerKey, Vectors, Weights

_FLOATS = {
    "pixel_values": "(batch_size, channels, height, width)",
    "input_features": "(batch_size, bins, frames)",
    "hidden_states": "(batch_size, seq_len, hidden_size)",
    "memory": "(batch_size, memory_len, width)",
}
_TOKEN_IDS = ("token_ids", "token_type_ids", "decoder_token_ids")
_LENGTHS = {
    "lengths": ("token_ids", "hidden_states"),
    "memory_lengths": ("memory",),
    "decoder_lengths": ("decoder_token_ids",),
}
"""The arrays that each argument of lengths belongs to."""
_INPUTS = ("text", "token_ids", "pixel_values", "input_features", "hidden_states")
_BOOLS = (bool, np.bool_)


@dataclass(frozen=True, slots=True)
class ExpectedForward:
    """The contents that the response to a call must have, and arguments that the result repeats."""

    batch_size: int
    texts: tuple[str, ...]
    text_pairs: tuple[str, ...]
    token_ids: NDArray[Any] | None
    token_type_ids: NDArray[Any] | None
    decoder_lengths: NDArray[np.int64] | None
    memory_lengths: NDArray[np.int64] | None
    has_output: bool
    hidden_states: tuple[LayerKey, ...] | None
    """Layers whose hidden states were requested; None means all."""
    weights: tuple[ExpectedWeights, ...]
    vectors: tuple[ExpectedVectors, ...]
    output_dtype: DTypeLike | None
    """The caller's dtype, because bfloat16 is returned in the dtype that was requested."""


@dataclass(frozen=True, slots=True)
class PreparedForward:
    """A call of forward that is ready to be sent."""

    request: pb.ForwardRequest
    expected: ExpectedForward


def prepare_forward(
    text: str | Sequence[str] | None = None,
    *,
    model: str,
    version: int | None = None,
    text_pair: str | Sequence[str] | None = None,
    token_ids: ArrayLike | None = None,
    token_type_ids: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    pixel_values: ArrayLike | None = None,
    input_features: ArrayLike | None = None,
    hidden_states: ArrayLike | None = None,
    first_layer: LayerKey | None = None,
    memory: ArrayLike | None = None,
    memory_lengths: ArrayLike | None = None,
    decoder_token_ids: ArrayLike | None = None,
    decoder_lengths: ArrayLike | None = None,
    truncate: bool = False,
    need_weights: bool | Weights | Mapping[LayerKey, bool | Weights] = False,
    head_vectors: bool | Vectors | Mapping[LayerKey, bool | Vectors] = False,
    need_hidden_states: bool | LayerKey | Sequence[LayerKey] = False,
    need_output: bool = True,
    last_layer: int | None = None,
    output_dtype: DTypeLike | None = None,
    request_id: str | None = None,
) -> PreparedForward:
    """Make the message of a call, and record what its response must contain.

    Client.forward documents the arguments. Raises InvalidArgumentError for arguments that no model
    accepts.
    """
    request = pb.ForwardRequest(
        model=arguments.checked_text("model", model),
        model_version=arguments.checked_version(version, "model_version"),
        texts=_checked_texts("text", text),
        text_pairs=_checked_texts("text_pair", text_pair),
        truncate=arguments.checked_switch("truncate", truncate),
    )
    if request_id is not None:
        request.request_id = arguments.checked_request_id(request_id)
    _check_pairs(request)
    inputs = {
        "token_ids": token_ids,
        "token_type_ids": token_type_ids,
        "pixel_values": pixel_values,
        "input_features": input_features,
        "hidden_states": hidden_states,
        "memory": memory,
        "decoder_token_ids": decoder_token_ids,
    }
    arrays = {
        name: _checked_array(name, value) for name, value in inputs.items() if value is not None
    }
    batch_size = _check_inputs(request, arrays)
    _check_types(arrays)
    for name, array in arrays.items():
        getattr(request, name).CopyFrom(to_tensor(array))
    lengths_by_name = {
        "lengths": lengths,
        "memory_lengths": memory_lengths,
        "decoder_lengths": decoder_lengths,
    }
    for name, value in lengths_by_name.items():
        if value is not None:
            getattr(request, name).extend(_checked_lengths(name, value, arrays))
    if first_layer is not None:
        _require("first_layer", arrays, "hidden_states")
        layer = checked_layer("first_layer", first_layer, "first_layer", is_attention=False)
        request.first_layer.CopyFrom(layer_ref(layer))
    if last_layer is not None:
        request.last_layer = checked_layer_number("last_layer", last_layer)
    layers = _add_hidden_states(request, need_hidden_states)
    weights = add_weights(request, need_weights)
    vectors = add_vectors(request, head_vectors)
    request.omit_output = not _checked_need_output(request, need_output)
    if output_dtype is not None:
        request.output_dtype = arguments.checked_float_dtype("output_dtype", output_dtype)
    expected = ExpectedForward(
        batch_size=batch_size,
        texts=tuple(request.texts),
        text_pairs=tuple(request.text_pairs),
        token_ids=arrays.get("token_ids"),
        token_type_ids=arrays.get("token_type_ids"),
        decoder_lengths=_all_lengths(request.decoder_lengths, arrays.get("decoder_token_ids")),
        memory_lengths=_all_lengths(request.memory_lengths, arrays.get("memory")),
        has_output=not request.omit_output,
        hidden_states=layers,
        weights=weights,
        vectors=vectors,
        output_dtype=output_dtype,
    )
    return PreparedForward(request, expected)


def _checked_texts(argument: str, text: object) -> list[str]:
    if text is None:
        return []
    if isinstance(text, bytes | AbstractSet | Mapping) or not arguments.is_iterable(text):
        problem = f"expected a str, or several in order; got {text!r}"
        raise arguments.bad_value(argument, problem, f"{argument}s")
    texts = [text] if isinstance(text, str) else list(text)  # type: ignore[call-overload] # it is iterable
    for index, each in enumerate(texts):
        name, field = f"{argument}[{index}]", f"{argument}s[{index}]"
        if isinstance(each, str) and not each.strip():
            raise arguments.invalid(name, "is empty; expected a text", field, "EMPTY")
        arguments.checked_text(name, each, field)
    return texts


def _check_pairs(request: pb.ForwardRequest) -> None:
    """Refuse second texts that are not one for each text."""
    num_texts, num_pairs = len(request.texts), len(request.text_pairs)
    message, reason = "", "SHAPE_MISMATCH"
    if num_pairs and not num_texts:
        message, reason = "is given without text: expected it with text only", "NOT_APPLICABLE"
    elif num_pairs not in (0, num_texts):
        message = f"expected a second text for each text, {num_texts}; got {num_pairs}"
    if message:
        raise arguments.invalid("text_pair", message, "text_pairs", reason)


def _check_types(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuse token types that are not one for each token."""
    if "token_type_ids" not in arrays:
        return
    token_ids = _require("token_type_ids", arrays, "token_ids")
    shape = arrays["token_type_ids"].shape
    if shape != token_ids.shape:
        message = f"expected the shape of token_ids, {token_ids.shape}; got {shape}"
        raise arguments.invalid("token_type_ids", message, "token_type_ids.shape", "SHAPE_MISMATCH")


def _checked_array(name: str, value: ArrayLike) -> NDArray[Any]:
    if name in _TOKEN_IDS:
        return checked_token_ids(name, value)
    return checked_floats(name, value, _FLOATS[name])


def _check_inputs(request: pb.ForwardRequest, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Refuse inputs that no model takes together; return their batch size."""
    sizes = {"text": len(request.texts)} if request.texts else {}
    sizes |= {name: len(array) for name, array in arrays.items()}
    inputs = [name for name in _INPUTS if name in sizes]
    is_decoding = {"memory", "decoder_token_ids"} <= sizes.keys()
    if len(inputs) > 1 or not (inputs or is_decoding):
        message = (
            f"expected one of {', '.join(_INPUTS)}, or memory with decoder_token_ids; got "
            f"{' and '.join(inputs or sizes) or 'none'}"
        )
        raise arguments.invalid("input", message, "input", "REQUIRED")
    if "memory" in sizes and inputs not in ([], ["hidden_states"]):
        message = f"is the encoder's output, and {inputs[0]} its input: expected one of them"
        raise arguments.invalid("memory", message, "memory", "NOT_APPLICABLE")
    first, batch_size = next(iter(sizes.items()))
    for name, size in sizes.items():
        if size != batch_size:
            message = f"expected the batch_size of {first}, {batch_size}; got {size}"
            raise arguments.invalid(name, message, f"{name}.shape", "SHAPE_MISMATCH")
    check_size(
        (ArraySpec(array.dtype, array.shape) for array in arrays.values()), next(iter(sizes))
    )
    return batch_size


def _checked_lengths(name: str, value: ArrayLike, arrays: Mapping[str, NDArray[Any]]) -> list[int]:
    array = _require(name, arrays, *_LENGTHS[name])
    return checked_lengths(name, value, len(array), (1, array.shape[1]), "seq_len")


def _require(name: str, arrays: Mapping[str, NDArray[Any]], *candidates: str) -> NDArray[Any]:
    """Return the array that an argument belongs to: the first of the candidates that is given."""
    for candidate in candidates:
        if candidate in arrays:
            return arrays[candidate]
    message = f"is given without {' or '.join(candidates)}: expected it with them only"
    raise arguments.invalid(name, message, name, "NOT_APPLICABLE")


def _all_lengths(lengths: Sequence[int], array: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Return the lengths, or the whole length for each sequence; None without an array."""
    if array is None:
        return None
    return np.array(lengths or [array.shape[1]] * len(array), np.int64)


def _add_hidden_states(
    request: pb.ForwardRequest, need_hidden_states: object
) -> tuple[LayerKey, ...] | None:
    """Request hidden states; return their layers, None for all."""
    if isinstance(need_hidden_states, _BOOLS):
        request.all_hidden_states = bool(need_hidden_states)
        return None if need_hidden_states else ()
    layers = checked_layers("need_hidden_states", need_hidden_states, "hidden_states_wanted")
    request.hidden_states_wanted.extend(map(layer_ref, layers))
    return layers


def _checked_need_output(request: pb.ForwardRequest, need_output: object) -> bool:
    """Return need_output. It must be True if nothing else is requested."""
    is_needed = arguments.checked_switch("need_output", need_output, "omit_output")
    has_states = request.hidden_states_wanted or request.all_hidden_states
    has_others = request.attn_weights or request.head_vectors or has_states
    if not (is_needed or has_others):
        raise arguments.invalid(
            "need_output",
            "without output, weights, vectors and hidden states there is nothing to send: expected "
            "need_weights, head_vectors or need_hidden_states with need_output=False",
            "omit_output",
            "REQUIRED",
        )
    return is_needed
