"""A checkpoint's whole model -> one ONNX graph, layer by layer, with its weights beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

from polyhead_models.blocks import EXPORTER, PROVENANCE_KEY, Provenance
from polyhead_models.checkpoint.designs.design import TokenEmbeddings
from polyhead_models.checkpoint.tokenizer import TokenizerFiles
from polyhead_models.checkpoint.whole_tensors import find_whole
from polyhead_models.graph.model import IR_VERSION, OPSET, add_block
from polyhead_models.graph.nodes import FUSED_DOMAIN, Nodes
from polyhead_models.graph.weights_file import WeightsFile
from polyhead_models.whole.embeddings import add_embeddings, describe_input
from polyhead_models.whole.layers import LayerBuilder
from polyhead_models.whole.segments import OUTPUTS, Segments, declare_inputs
from polyhead_models.whole_config import WHOLE_KEY, Stack, Sublayer, WholeConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_models.checkpoint.designs.design import Residual, StackDesign
    from polyhead_models.checkpoint.families.family import AttentionLocation
    from polyhead_models.checkpoint.stack_tensors import StackTensors

__all__ = ["build_whole_model", "with_errors"]


def build_whole_model(
    checkpoint: Checkpoint,
    weights_file: BinaryIO,
    *,
    dtype: str = "float32",
    int8: tuple[str, ...] = (),
    on_layer: Callable[[str], object] = lambda _: None,
) -> tuple[bytes, WholeConfig]:
    """Write a model's weights to ``weights_file``, and return its graph and its configuration.

    One layer's weights are in memory at a time. ``on_layer`` is called after each layer. ``int8``:
    the MATRIX_KINDS that are int8; with_errors adds their errors. Raises
    CheckpointError if the family has no whole model, or tensors are missing or do not fit.
    """
    stack_tensors = find_whole(checkpoint)
    tokenizer = _read_tokenizer(checkpoint, stack_tensors)
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="polyhead")
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.opset_import.append(helper.make_opsetid(FUSED_DOMAIN, 1))
    model.graph.name = "whole_model"
    weights = WeightsFile(weights_file)
    nodes = Nodes(dtype, model.graph, weights.store)
    declare_inputs(nodes, model.graph)
    numbers = nodes.number_type
    for name in OUTPUTS:
        output_type = TensorProto.INT32 if name == "top_keys" else numbers
        model.graph.output.append(helper.make_tensor_value_info(name, output_type, None))
    segments = Segments(nodes)
    stacks = tuple(
        _StackBuilder(checkpoint, design, tensors, segments, dtype, int8, on_layer).build()
        for design, tensors in stack_tensors
    )
    segments.join()
    config = WholeConfig(stacks=stacks, dtype=dtype, int8=int8)
    if tokenizer:
        config = _with_tokenizer(config, tokenizer)
    provenance = Provenance(
        source=checkpoint.source,
        family=checkpoint.model_type,
        weights_sha256=weights.digest.hexdigest(),
        exporter=EXPORTER,
    )
    return _with_metadata(model, config, provenance), config


def _read_tokenizer(
    checkpoint: Checkpoint, stack_tensors: list[tuple[StackDesign, StackTensors]]
) -> TokenizerFiles | None:
    """Read the tokenizer's files; None if the model takes no tokens, or has no such files."""
    vocab_sizes = [
        tensors.shape(f"{design.embeddings.words[0]}.weight")[0]
        for design, tensors in stack_tensors
        if isinstance(design.embeddings, TokenEmbeddings)
    ]
    tokenizer = TokenizerFiles.read(checkpoint.folder) if vocab_sizes else None
    if tokenizer:
        tokenizer.check_vocabulary(vocab_sizes[0])
    return tokenizer


def _with_tokenizer(config: WholeConfig, tokenizer: TokenizerFiles) -> WholeConfig:
    """Add the length that texts are cut to on request, and the end that is cut off."""
    stacks = tuple(
        replace(stack, trained_length=min(filter(None, lengths), default=0))
        for stack in config.stacks
        for lengths in [(stack.trained_length, tokenizer.max_length if stack.vocab_size else 0)]
    )
    return replace(config, stacks=stacks, truncation_side=tokenizer.truncation_side)


def with_errors(
    graph: bytes, config: WholeConfig, *, weights: float, output: float
) -> tuple[bytes, WholeConfig]:
    """Write a model's errors into its graph and its configuration."""
    model = onnx.ModelProto.FromString(graph)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
    # two digits, because further digits differ between machines
    config = replace(config, weights_error=float(f"{weights:.1e}"))
    provenance = replace(provenance, precision_error=float(f"{output:.1e}"))
    return _with_metadata(model, config, provenance), config


def _with_metadata(model: onnx.ModelProto, config: WholeConfig, provenance: Provenance) -> bytes:
    del model.metadata_props[:]
    properties = {WHOLE_KEY: config.to_json(), PROVENANCE_KEY: provenance.to_json()}
    helper.set_model_props(model, properties)
    return model.SerializeToString(deterministic=True)


@dataclass
class _StackBuilder:
    """Builds one stack's segments."""

    checkpoint: Checkpoint
    design: StackDesign
    tensors: StackTensors
    segments: Segments
    dtype: str
    int8: tuple[str, ...]
    on_layer: Callable[[str], object]

    def build(self) -> Stack:
        """Add the segments in the order in which they run."""
        design, checkpoint = self.design, self.checkpoint
        locations = {
            location.kind: location for location in checkpoint.locations(stack=design.stack)
        }
        first = locations["self"]
        hidden_size = checkpoint.config(first, 0).embed_dim
        embed = self.segments.add(
            lambda nodes: add_embeddings(nodes, design.embeddings, self.tensors)
        )
        num_layers = checkpoint.num_layers(first)
        # layers with the same weights are the same segments
        layers: dict[str, tuple[Sublayer, ...]] = {}
        labels = [checkpoint.label(first, layer) for layer in range(num_layers)]
        for layer, label in enumerate(labels):
            if label not in layers:
                layers[label] = self._layer(locations, layer)
            self.on_layer(f"{design.stack} layer {layer}")
        finish = -1
        if design.final or design.projection:
            finish = self.segments.add(self._finish)
        output_size = hidden_size
        if design.projection:
            output_size = self.tensors.shape(f"{design.projection}.weight")[0]
        return Stack(
            name=design.stack,
            hidden_size=hidden_size,
            output_size=output_size,
            embed=embed,
            finish=finish,
            layers=tuple(layers[label] for label in labels),
            **describe_input(design.embeddings, self.tensors),
        )

    def _layer(self, locations: dict[str, AttentionLocation], layer: int) -> tuple[Sublayer, ...]:
        layers = self.design.layers
        steps = {"self": layers.attention}
        if layers.cross_attention and "cross" in locations:
            steps["cross"] = layers.cross_attention
        sublayers = []
        for kind, step in steps.items():
            is_last = kind == list(steps)[-1]
            sublayers.append(self._sublayer(locations[kind], step, layer, is_last=is_last))
        return tuple(sublayers)

    def _sublayer(
        self,
        location: AttentionLocation,
        step: Residual,
        layer: int,
        *,
        is_last: bool,
    ) -> Sublayer:
        enter = -1
        label = self.checkpoint.label(location, layer)
        if step.before and not (step.before.skips_first_layer and layer == 0):
            enter = self.segments.add(lambda nodes: self._enter(nodes, step, label))
        block = self.checkpoint.load(location, layer)
        precision = "int8" if "projections" in self.int8 else self.dtype
        config = replace(block.config, precision=precision)
        block = replace(block, config=config)
        attention = self.segments.add(lambda nodes: add_block(nodes, block), is_attention=True)
        normed = "attention_input" if enter >= 0 else "hidden_states"

        def build_leave(nodes: Nodes) -> None:
            builder = LayerBuilder(nodes, self.tensors, label, self.int8)
            states = self._join_attention(builder, step, normed)
            builder.end(self._add_network(builder, states, normed) if is_last else states)

        leave = self.segments.add(build_leave)
        return Sublayer(
            kind=location.kind, enter=enter, attention=attention, leave=leave, block=config
        )

    def _enter(self, nodes: Nodes, step: Residual, label: str) -> None:
        builder = LayerBuilder(nodes, self.tensors, label)
        builder.end(builder.norm("hidden_states", step.before))

    def _join_attention(self, builder: LayerBuilder, step: Residual, normed: str) -> str:
        """Join the block's output and the hidden states."""
        base = normed if self.design.layers.adds_to_normed else "hidden_states"
        return self._join(builder, base, "attended", step)

    def _add_network(self, builder: LayerBuilder, states: str, normed: str) -> str:
        """Add the feed-forward network's step."""
        layers = self.design.layers
        step = layers.feed_forward_step
        if not layers.is_parallel:
            source = builder.norm(states, step.before)
        elif step.before:
            source = builder.norm("hidden_states", step.before)
        else:
            source = normed
        base = source if layers.adds_to_normed else states
        return self._join(builder, base, builder.feed_forward(source, layers.feed_forward), step)

    def _join(self, builder: LayerBuilder, base: str, result: str, step: Residual) -> str:
        result = builder.norm(result, step.after)
        if step.scale:
            result = builder.add("Mul", result, builder.tensor(step.scale))
        result = builder.scaled(result, self.design.layers.residual_scale)
        return builder.norm(builder.add("Add", base, result), step.joined)

    def _finish(self, nodes: Nodes) -> None:
        builder = LayerBuilder(nodes, self.tensors)
        states = builder.norm("hidden_states", self.design.final)
        if self.design.projection:
            states = builder.linear(states, self.design.projection)
        builder.end(states)
