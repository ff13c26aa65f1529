"""The segments that make hidden states of token ids, images and spectrograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyhead_models.checkpoint.designs.design import (
    FrameEmbeddings,
    PatchEmbeddings,
    TokenEmbeddings,
)
from polyhead_models.whole.layers import LayerBuilder, Weights

if TYPE_CHECKING:
    from polyhead_models.graph.nodes import Nodes

__all__ = ["add_embeddings", "describe_input"]

Embeddings = TokenEmbeddings | PatchEmbeddings | FrameEmbeddings


def describe_input(design: Embeddings, weights: Weights) -> dict[str, Any]:
    """Return the fields of a Stack that describe its input."""
    match design:
        case TokenEmbeddings():
            vocab_size = weights.shape(*_weights_of(design.words))[0]
            rows = weights.shape(f"{design.positions}.weight")[0] if design.positions else 0
            first = design.padding_id + 1 if design.padding_id >= 0 else design.first_position
            return {
                "input": "token_ids",
                "vocab_size": vocab_size,
                "max_length": max(0, rows - first),
            }
        case PatchEmbeddings():
            grid = [
                size // patch
                for size, patch in zip(design.image_size, design.patch_size, strict=True)
            ]
            return {
                "input": "pixel_values",
                "input_shape": (design.channels, *design.image_size),
                "max_length": grid[0] * grid[1] + len(design.tokens),
            }
        case FrameEmbeddings():
            length = weights.shape(f"{design.positions}.weight")[0]
            return {
                "input": "input_features",
                "input_shape": (design.bins, 2 * length),
                "max_length": length,
            }


def add_embeddings(nodes: Nodes, design: Embeddings, weights: Weights) -> None:
    """Compute the hidden states that enter the first layer."""
    builder = LayerBuilder(nodes, weights)
    match design:
        case TokenEmbeddings():
            states = _tokens(builder, design, weights)
        case PatchEmbeddings():
            states = _patches(builder, design)
        case FrameEmbeddings():
            states = _frames(builder, design)
    builder.end(states)


def _weights_of(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


def _tokens(builder: LayerBuilder, design: TokenEmbeddings, weights: Weights) -> str:
    is_projected = design.projection or design.word_projection
    width = 0 if is_projected else weights.hidden_size
    table = weights.read_first(_weights_of(design.words), 0, width)
    width = table.shape[1]
    states = builder.add("Gather", builder.number(table), "token_ids")
    del table  # it may take as much memory as all that is read later
    states = builder.of_width(width, builder.scaled(states, design.scale))
    if design.word_projection:
        width = weights.hidden_size
        states = builder.linear(states, design.word_projection, width)
    if design.positions:
        positions = builder.number(weights.read(f"{design.positions}.weight", 0, width))
        states = builder.add("Add", states, _positions(builder, design, positions))
    if design.types:
        types = weights.read(f"{design.types}.weight", 0, width)
        states = builder.add("Add", states, builder.number(types[0]))
    states = builder.norm(builder.of_width(width, states), design.norm)
    if design.projection:
        return builder.linear(states, design.projection, weights.hidden_size)
    return states


def _positions(builder: LayerBuilder, design: TokenEmbeddings, table: str) -> str:
    """Look up each token's position: (seq_len, width), or one for each sequence."""
    if design.padding_id < 0:
        # sliced, because ONNX Runtime's optimizer broke a Gather of a Range
        length = builder.add("Shape", "token_ids", start=1, end=2)
        first = builder.integer([design.first_position])
        return builder.add("Slice", table, first, builder.add("Add", length, first))
    padding = builder.integer(design.padding_id)
    is_token = builder.add("Not", builder.add("Equal", "token_ids", padding))
    is_token = builder.add("Cast", is_token, to=7)
    count = builder.add("CumSum", is_token, builder.integer(1))
    rows = builder.add("Add", builder.add("Mul", count, is_token), padding)
    return builder.add("Gather", table, rows)


def _patches(builder: LayerBuilder, design: PatchEmbeddings) -> str:
    kernel = builder.tensor(f"{design.convolution}.weight", 0, design.channels, *design.patch_size)
    inputs = ["pixel_values", kernel]
    if builder.has(f"{design.convolution}.bias"):
        inputs.append(builder.vector(f"{design.convolution}.bias"))
    patches = builder.add("Conv", *inputs, strides=list(design.patch_size))
    patches = builder.add("Reshape", patches, builder.integer([0, 0, -1]))
    states = builder.add("Transpose", patches, perm=[0, 2, 1])
    if design.tokens:
        batch_size = builder.add("Shape", "pixel_values", start=0, end=1)
        ones = builder.integer([1, 1])
        shape = builder.add("Concat", batch_size, ones, axis=0)
        tokens = [builder.add("Expand", builder.row(name), shape) for name in design.tokens]
        states = builder.add("Concat", *tokens, states, axis=1)
    if design.positions:
        states = builder.add("Add", states, builder.row_table(design.positions))
    return builder.norm(states, design.norm)


def _frames(builder: LayerBuilder, design: FrameEmbeddings) -> str:
    states = "input_features"
    for stride, name in enumerate(design.convolutions, start=1):
        kernel = builder.tensor(f"{name}.weight", 0, 0, 3)
        bias = builder.vector(f"{name}.bias")
        states = builder.add("Conv", states, kernel, bias, strides=[stride], pads=[1, 1])
        states = builder.add("Gelu", states)
    states = builder.add("Transpose", states, perm=[0, 2, 1])
    return builder.add("Add", states, builder.row_table(design.positions))
