"""The inputs and outputs of a whole model, by the protocol's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.call import LayerName
from polyhead_server.engine.onnx_model import ANY, TensorSpec
from polyhead_server.head_vectors import VectorsSelection
from polyhead_server.services.oip.datatypes import BYTES
from polyhead_server.services.oip.to_attend_request import VECTORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead_models.config import AttentionConfig
    from polyhead_models.whole_config import Stack, WholeConfig
    from polyhead_server.engine.whole_model import WholeModel

__all__ = [
    "MAX_BATCH_SIZE",
    "TEXT_PAIR",
    "TYPE_IDS",
    "WholeInput",
    "WholeOutput",
    "inputs_of",
    "outputs_of",
    "shape_of_vectors",
]

MAX_BATCH_SIZE = 1 << 16
"""Most sequences of a request, as many as a ForwardRequest may have texts."""
TYPE_IDS, TEXT_PAIR = "token_type_ids", "text_pair"
_MATRIX, _WEIGHTS = (ANY, ANY), (ANY, ANY, ANY, ANY)


class WholeInput(NamedTuple):
    """An input of a whole model."""

    spec: TensorSpec
    stack: str
    """The stack that takes it; empty: that of the parameter first_layer, or it describes another
    input."""
    field: str
    """The field of a ForwardCall that it sets; a mask sets one of its lengths."""
    describes: tuple[str, ...] = ()
    """The inputs whose entries it describes, alternatives; empty: it describes none."""

    @property
    def is_mask(self) -> bool:
        """Whether it says which positions are valid."""
        return self.field.endswith("lengths")


class WholeOutput(NamedTuple):
    """An output of a whole model."""

    spec: TensorSpec
    kind: str
    """output, hidden_states, attn_weights, top_keys, queries, lengths, tokens, input_ids, or one of
    VECTORS."""
    layer: LayerName | None = None
    """The layer that it belongs to."""


def inputs_of(model: WholeModel) -> dict[str, WholeInput]:
    """List the inputs by name. The first stack requires one that describes no other."""
    config, inputs = model.config, list[WholeInput]()
    for stack in config.stacks:
        is_first, is_decoder = stack is config.stacks[0], _is_decoder(config, stack)
        has_texts = stack.input == "token_ids" and not is_decoder and model.tokenizer is not None
        if has_texts:
            spec = TensorSpec("text", BYTES, (ANY, 1), is_optional=not is_first)
            inputs.append(WholeInput(spec, stack.name, "texts"))
            spec = TensorSpec(TEXT_PAIR, BYTES, (ANY, 1), is_optional=True)
            inputs.append(WholeInput(spec, "", "text_pairs", ("text",)))
        # not optional for a decoder, because the outputs that are listed need it
        is_optional = has_texts or not (is_first or is_decoder)
        if stack.input == "token_ids":
            prefix = "decoder_" if is_decoder else ""
            spec = TensorSpec(f"{prefix}input_ids", "INT64", _MATRIX, is_optional)
            inputs.append(WholeInput(spec, stack.name, f"{prefix}token_ids"))
            if stack.num_types and not is_decoder:
                inputs.append(_beside(TYPE_IDS, "token_type_ids", "input_ids"))
            if is_decoder:
                mask = _beside("decoder_attention_mask", "decoder_lengths", "decoder_input_ids")
                inputs.append(mask)
        else:
            shape = ANY, *(length or ANY for length in stack.input_shape)
            spec = TensorSpec(stack.input, "FP32", shape, is_optional)
            inputs.append(WholeInput(spec, stack.name, stack.input))
    sizes = {stack.hidden_size for stack in config.stacks}
    inputs.append(_states("hidden_states", "", "hidden_states", sizes))
    ids = [each.spec.name for each in inputs if each.field == "token_ids"]
    inputs.append(_beside("attention_mask", "lengths", *ids, "hidden_states"))
    if config.has_memory:  # the names in transformers' exports of decoders
        decoder, sizes = config.stacks[-1].name, {config.stacks[0].output_size}
        inputs.append(_states("encoder_hidden_states", decoder, "memory", sizes))
        inputs.append(_beside("encoder_attention_mask", "memory_lengths", "encoder_hidden_states"))
    return {each.spec.name: each for each in inputs}


def _states(name: str, stack: str, field: str, sizes: set[int]) -> WholeInput:
    """Make an input of hidden states, whose last axis has one of these sizes."""
    shape = ANY, ANY, next(iter(sizes)) if len(sizes) == 1 else ANY
    return WholeInput(TensorSpec(name, "FP32", shape, is_optional=True), stack, field)


def _beside(name: str, field: str, *describes: str) -> WholeInput:
    """Make an input with a number for each position of one of these inputs, such as a mask."""
    return WholeInput(TensorSpec(name, "INT64", _MATRIX, is_optional=True), "", field, describes)


def outputs_of(model: WholeModel) -> dict[str, WholeOutput]:
    """List the outputs by name. Outputs that a usual request does not have are optional."""
    config = model.config
    sizes = {stack.output_size for stack in config.stacks}
    shape = ANY, ANY, sizes.pop() if len(sizes) == 1 else ANY
    outputs = [
        WholeOutput(TensorSpec("output", "FP32", shape), "output"),
        # the name in transformers' exports
        WholeOutput(TensorSpec("last_hidden_state", "FP32", shape, is_optional=True), "output"),
    ]
    for stack in config.stacks:
        outputs += _layers(config, stack)
    outputs.append(WholeOutput(TensorSpec("lengths", "INT64", (ANY,), is_optional=True), "lengths"))
    if "text" in inputs_of(model):
        for name, datatype in (("tokens", BYTES), ("input_ids", "INT64")):
            outputs.append(WholeOutput(TensorSpec(name, datatype, _MATRIX, is_optional=True), name))
    return {each.spec.name: each for each in outputs}


def _is_decoder(config: WholeConfig, stack: Stack) -> bool:
    return config.has_memory and stack is config.stacks[-1]


def _layers(config: WholeConfig, stack: Stack) -> Iterator[WholeOutput]:
    """Yield the outputs of a stack's layers; names of several stacks' layers have the stack's."""
    prefix = f"{stack.name}." if len(config.stacks) > 1 else ""
    # a usual request has the first stack's input and, if there is a decoder, the decoder's too
    is_optional = not (stack is config.stacks[0] or _is_decoder(config, stack))
    for number in range(len(stack.layers) + 1):
        name, of_states = f"hidden_states.{prefix}{number}", (ANY, ANY, stack.hidden_size)
        spec = TensorSpec(name, "FP32", of_states, is_optional)
        yield WholeOutput(spec, "hidden_states", LayerName(stack.name, number))
    for kind, datatype, shape in (
        ("attn_weights", "FP32", _WEIGHTS),
        ("top_keys", "INT32", _WEIGHTS),
        ("queries", "INT32", _MATRIX),
    ):
        for number, layer in enumerate(stack.layers):
            for sublayer in layer:
                which = "cross." if sublayer.kind == "cross" else prefix
                name, is_listed = f"{kind}.{which}{number}", kind == "attn_weights"
                spec = TensorSpec(name, datatype, shape, is_optional or not is_listed)
                yield WholeOutput(spec, kind, LayerName(stack.name, number, sublayer.kind))
    for number, layer in enumerate(stack.layers):
        for sublayer in layer:
            which = "cross." if sublayer.kind == "cross" else prefix
            for output, kind in VECTORS.items():
                if sublayer.block is not None:
                    name, of_vectors = (
                        f"{output}.{which}{number}",
                        shape_of_vectors(kind, sublayer.block),
                    )
                    spec = TensorSpec(name, "FP32", of_vectors, is_optional=True)
                    yield WholeOutput(spec, output, LayerName(stack.name, number, sublayer.kind))


def shape_of_vectors(kind: str, config: AttentionConfig) -> tuple[int, int, int, int]:
    """Return the shape of the vectors of a kind of all heads and tokens."""
    _, heads, _, width = VectorsSelection().shape_of(kind, config, 1, 1, 1)
    return ANY, heads, ANY, width
