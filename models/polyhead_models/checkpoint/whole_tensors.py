"""The tensors of a whole model's stacks, and their shapes by config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_models.checkpoint.designs.design import (
    FrameEmbeddings,
    PatchEmbeddings,
    TokenEmbeddings,
)
from polyhead_models.checkpoint.files import CheckpointError
from polyhead_models.checkpoint.layout import Module
from polyhead_models.checkpoint.stack_tensors import StackTensors

if TYPE_CHECKING:
    from polyhead_models.checkpoint.checkpoint import Checkpoint
    from polyhead_models.checkpoint.designs.design import FeedForward, Norm, Residual, StackDesign
    from polyhead_models.checkpoint.stack_tensors import Axis

__all__ = ["find_whole", "surplus_layers"]


def find_whole(checkpoint: Checkpoint) -> list[tuple[StackDesign, StackTensors]]:
    """Find all tensors of a whole model, by stack, and check each without reading its numbers.

    Raises CheckpointError if a tensor is missing, has another shape or another type than
    config.json gives it, or is there although config.json denies it.
    """
    return [(design, _find(checkpoint, design)) for design in checkpoint.designs()]


def _find(checkpoint: Checkpoint, design: StackDesign) -> StackTensors:
    """Find the tensors of one stack, and check them."""
    locations = {location.kind: location for location in checkpoint.locations(stack=design.stack)}
    first = locations["self"]
    prefix = Module.find(checkpoint.tensors, first.names, checkpoint.label(first, 0)).prefix
    hidden = "hidden_size", checkpoint.config(first, 0).embed_dim
    stack = _Stack(StackTensors(checkpoint.tensors, prefix, design.older), hidden)
    stack.embeddings(design.embeddings)
    layers = design.layers
    steps = [layers.attention, layers.feed_forward_step]
    if layers.cross_attention and "cross" in locations:
        steps.append(layers.cross_attention)
    else:
        locations.pop("cross", None)
    labels = set()
    for layer in range(checkpoint.num_layers(first)):
        label = checkpoint.label(first, layer)
        if label in labels:  # it has the weights of an earlier layer
            continue
        labels.add(label)
        for location in locations.values():
            for part in checkpoint.parts(location, layer, checkpoint.config(location, layer)):
                checkpoint.tensors.dtype(part.tensor, part.shape)
        for step in steps:
            stack.residual(step, label, is_first=layer == 0)
        stack.feed_forward(layers.feed_forward, label)
    stack.norm(design.final)
    if design.projection and isinstance(design.embeddings, TokenEmbeddings):
        words = "embedding_size", design.embeddings.width
        stack.tensors.require_linear(design.projection, words, hidden, has_bias=False)
    return stack.tensors


def surplus_layers(checkpoint: Checkpoint) -> str:
    """Describe layers in the files that the whole model does not have; empty if there are none.

    config.json states the number of layers, and transformers ignores all others.
    """
    surplus = []
    for design in checkpoint.designs():
        location = checkpoint.locations(stack=design.stack)[0]
        num_layers = checkpoint.num_layers(location)
        labels = {checkpoint.label(location, layer) for layer in range(num_layers)}
        if others := sorted(checkpoint.saved_labels(location) - labels):
            surplus.append(
                f"{checkpoint.folder} also holds {design.stack} layer {', '.join(others)}, and "
                f"config.json counts {num_layers}; the model is exported without what it does not "
                "count, as transformers loads it"
            )
    return "; ".join(surplus)


class _Stack:
    """Requires the tensors of a stack's parts. Raises CheckpointError."""

    def __init__(self, tensors: StackTensors, hidden: Axis) -> None:
        self.tensors = tensors
        self._hidden = hidden

    def embeddings(self, design: TokenEmbeddings | PatchEmbeddings | FrameEmbeddings) -> None:
        match design:
            case TokenEmbeddings():
                self._tokens(design)
            case PatchEmbeddings():
                self._patches(design)
            case FrameEmbeddings():
                self._frames(design)

    def _tokens(self, design: TokenEmbeddings) -> None:
        tensors = self.tensors
        width = ("embedding_size", design.width) if design.width else self._hidden
        names = [f"{name}.weight" for name in design.words]
        tensors.require(*names, axes=(("vocab_size", design.vocab_size), width))
        if design.word_projection:
            tensors.require_linear(design.word_projection, self._hidden, width, has_bias=False)
            width = self._hidden
        if design.positions:
            name = f"{design.positions}.weight"
            tensors.require(name, axes=(("positions", design.num_positions), width))
            rows, first = tensors.shape(name)[0], design.first_row
            if rows <= first:
                raise CheckpointError(
                    f"tensor {name} has {rows} rows, and the first token has row {first}; check "
                    "max_position_embeddings and pad_token_id in config.json"
                )
        if design.types:
            tensors.require(f"{design.types}.weight", axes=(("types", design.num_types), width))
        self.norm(design.norm, width=width)
        if design.projection:
            tensors.require_linear(design.projection, self._hidden, width, has_bias=True)

    def _patches(self, design: PatchEmbeddings) -> None:
        tensors, hidden = self.tensors, self._hidden
        height, width = design.patch_size
        sizes = ("num_channels", design.channels), ("patch_height", height), ("patch_width", width)
        tensors.require(f"{design.convolution}.weight", axes=(hidden, *sizes))
        tensors.require_bias(design.convolution, hidden, has_bias=design.has_bias)
        for name in design.tokens:
            tensors.require(name, axes=(hidden,), may_have_ones=True)
        self._table(design.positions, design.num_positions)
        if design.registers:
            self._table(design.registers, design.num_registers)
        self.norm(design.norm)

    def _frames(self, design: FrameEmbeddings) -> None:
        channels = "num_mel_bins", design.bins
        for name in design.convolutions:
            axes = (self._hidden, channels, ("kernel_size", 3))
            self.tensors.require(f"{name}.weight", axes=axes)
            self.tensors.require_bias(name, self._hidden, has_bias=True)
            channels = self._hidden
        self._table(design.positions, design.num_positions)

    def _table(self, name: str, length: int) -> None:
        """Require a table, which is a parameter or an embedding."""
        axes = (("positions", length), self._hidden)
        self.tensors.require(name, f"{name}.weight", axes=axes, may_have_ones=True)

    def residual(self, step: Residual, label: str, *, is_first: bool) -> None:
        for norm in (step.before, step.after, step.joined):
            if norm and not (norm.skips_first_layer and is_first):
                self.norm(norm, label)
        if step.scale:
            self.tensors.require(step.scale.format(layer=label), axes=(self._hidden,))

    def norm(self, norm: Norm | None, label: str = "", width: Axis | None = None) -> None:
        if norm is None:
            return
        name, width = norm.name.format(layer=label), width or self._hidden
        if norm.width:
            self.tensors.forbid(f"{name}.weight")
        else:
            self.tensors.require(f"{name}.weight", axes=(width,))
        has_bias = norm.has_bias and not norm.is_rms and not norm.width
        self.tensors.require_bias(name, width, has_bias=has_bias)

    def feed_forward(self, design: FeedForward, label: str) -> None:
        tensors, hidden = self.tensors, self._hidden
        up, down, gate = (
            name.format(layer=label) for name in (design.up, design.down, design.gate)
        )
        is_one = bool(gate) and tensors.are_one(f"{gate}.weight", f"{up}.weight")
        num_maps = 2 if design.is_fused or is_one else 1
        options = {"has_bias": design.has_bias, "is_transposed": design.is_transposed}
        tensors.require_linear(up, ("maps", num_maps * design.width), hidden, **options)
        rows = tensors.shape(f"{up}.weight")[1 if design.is_transposed else 0]
        inner = "intermediate_size", design.width or rows // num_maps
        if rows != num_maps * inner[1]:
            raise CheckpointError(
                f"tensor {up}.weight holds two maps in {rows} rows; expected an even number of rows"
            )
        if gate and not is_one:
            tensors.require_linear(gate, inner, hidden, **options)
        tensors.require_linear(down, hidden, inner, **options)
