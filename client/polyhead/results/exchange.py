"""Attention weights as other libraries take them: transformers' form, and BertViz's arguments.

Neither is imported. BertViz's arguments: head_view and model_view of its version 1.4.
"""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead._checks import bad_value
from polyhead.results.attention import Weights
from polyhead.results.sequence import checked_layer, sequence_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.results.forward import ForwardResult, LayerKey

_ENCODER_DECODER = ("encoder", "decoder", "cross")


def attentions(result: ForwardResult) -> tuple[NDArray[Any], ...]:
    """Return the weights of ForwardResult.attentions, which documents errors."""
    stacks = whole_layers(result)
    if len(stacks) > 1:
        raise bad_value(
            "attentions",
            f"these are weights of {' and '.join(stacks)}: expected those of one; attn_weights has "
            "all of them by layer",
        )
    [layers] = stacks.values()
    return tuple(result.attn_weights[layers[number]] for number in sorted(layers))


def bertviz(result: ForwardResult, batch: int) -> dict[str, Any]:
    """Return the arguments of ForwardResult.bertviz, which documents errors."""
    stacks = whole_layers(result)
    numbers = [sorted(layers) for layers in stacks.values()]
    if any(each != numbers[0] for each in numbers):
        raise bad_value(
            "bertviz",
            "BertViz shows the same layers of every stack: expected weights of the same layers",
        )
    has_pair = len(stacks) > 1 or "cross" in stacks
    if has_pair and not stacks.keys() <= set(_ENCODER_DECODER):
        raise bad_value(
            "bertviz",
            f"BertViz shows one stack, or an encoder and its decoder; got {' and '.join(stacks)}: "
            "ask for the weights of one",
        )
    arguments: dict[str, Any] = {}
    for stack, layers in stacks.items():
        prefix = f"{stack}_" if has_pair else ""
        sequences = {number: sequence_of(result, key, batch) for number, key in layers.items()}
        tensors = {number: _tensor(each.result.attn_weights) for number, each in sequences.items()}
        # layers that were not requested are not shown, because of include_layers
        filler = next(iter(tensors.values()))
        arguments[f"{prefix}attention"] = [
            tensors.get(number, filler) for number in range(max(layers) + 1)
        ]
        first = next(iter(sequences.values()))
        query_tokens = first.tokens or _positions(first.result.q_seq_len)
        if stack != "cross":
            arguments[f"{prefix}tokens"] = query_tokens
            if result.text_pairs and 1 in result.token_texts[batch]:
                arguments["sentence_b_start"] = result.token_texts[batch].index(1)
            continue
        arguments["decoder_tokens"] = query_tokens
        arguments["encoder_tokens"] = first.key_tokens or _positions(first.result.kv_seq_len)
    if numbers[0] != list(range(len(numbers[0]))):
        arguments["include_layers"] = numbers[0]
    return arguments


def whole_layers(result: ForwardResult) -> dict[str, dict[int, LayerKey]]:
    """Return the layers' keys by stack and number; refuse layers with some weights only."""
    if not result.attn_weights:
        checked_layer(result, None)  # raises
    stacks: defaultdict[str, dict[int, LayerKey]] = defaultdict(dict)
    for key, selection in result.selections.items():
        if selection != Weights(dtype=selection.dtype):
            raise bad_value(
                "layer",
                f"only some weights of layer {key!r} were asked for: expected all of them, as "
                f"need_weights=True or need_weights={{{key!r}: True}} gives",
            )
        stack, number = key if isinstance(key, tuple) else ("", key)
        stacks[stack][number] = key
    return stacks


def _tensor(weights: NDArray[Any] | None) -> Any:  # noqa: ANN401 - torch's tensor, if it is there
    array = np.array(weights)  # torch warns of arrays that are read-only
    if find_spec("torch") is None:
        return array
    return import_module("torch").from_numpy(array)


def _positions(count: int) -> list[str]:
    return [str(position) for position in range(count)]
