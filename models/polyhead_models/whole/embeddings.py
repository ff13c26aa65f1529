"""The segments that make hidden states of token ids, images and spectrograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

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
            if not design.stretch:
                return {
                    "input": "pixel_values",
                    "input_shape": (design.channels, *design.image_size),
                    "max_length": design.num_positions,
                }
            num_registers = weights.shape(design.registers)[-2] if design.registers else 0
            return {
                "input": "pixel_values",
                "input_shape": (design.channels, 0, 0),
                "patch_size": design.patch_size,
                "num_image_tokens": len(design.tokens) + num_registers,
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
            states = _patches(builder, design, weights.hidden_size)
        case FrameEmbeddings():
            states = _frames(builder, design, weights.hidden_size)
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
    states = builder.scaled(states, design.scale)
    if design.mask_id >= 0:
        states = _without_masked(builder, design, states)
    states = builder.of_width(width, states)
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
    is_token = _are_not(builder, design.padding_id, TensorProto.INT64)
    count = builder.add("CumSum", is_token, builder.integer(1))
    rows = builder.add("Add", builder.add("Mul", count, is_token), padding)
    return builder.add("Gather", table, rows)


def _are_not(builder: LayerBuilder, token_id: int, dtype: int) -> str:
    """Compute 1 for each token with another id, 0 for those with this id."""
    is_it = builder.add("Equal", "token_ids", builder.integer(token_id))
    return builder.add("Cast", builder.add("Not", is_it), to=dtype)


def _without_masked(builder: LayerBuilder, design: TokenEmbeddings, states: str) -> str:
    """Set masked tokens to zero, and make up for it by scaling the sequence."""
    is_kept = _are_not(builder, design.mask_id, TensorProto.FLOAT)
    share = builder.add("ReduceMean", is_kept, builder.integer([1]))
    scale = builder.add("Unsqueeze", builder.add("Div", is_kept, share), builder.integer([2]))
    scale = builder.add("CastLike", scale, states)
    return builder.scaled(builder.add("Mul", states, scale), 1 - 0.15 * 0.8)


def _patches(builder: LayerBuilder, design: PatchEmbeddings, width: int) -> str:
    shape = (width, design.channels, *design.patch_size)
    kernel = builder.tensor(f"{design.convolution}.weight", *shape)
    inputs = ["pixel_values", kernel]
    if builder.has(f"{design.convolution}.bias"):
        inputs.append(builder.vector(f"{design.convolution}.bias"))
    patches = builder.add("Conv", *inputs, strides=list(design.patch_size))
    grid = builder.add("Shape", patches, start=2)
    patches = builder.add("Reshape", patches, builder.integer([0, 0, -1]))
    states = builder.add("Transpose", patches, perm=[0, 2, 1])
    batch_size = builder.add("Shape", "pixel_values", start=0, end=1)
    each_image = builder.add("Concat", batch_size, builder.integer([1, 1]), axis=0)
    if design.tokens:
        tokens = [builder.add("Expand", builder.row(name), each_image) for name in design.tokens]
        states = builder.add("Concat", *tokens, states, axis=1)
    states = builder.add("Add", states, _patch_positions(builder, design, grid))
    if design.registers:
        first, others, end = (builder.integer([index]) for index in (0, 1, 2**62))
        axis = builder.integer([1])
        vectors = builder.number(builder.read_table(design.registers)[np.newaxis])
        registers = builder.add("Expand", vectors, each_image)
        states = builder.add(
            "Concat",
            builder.add("Slice", states, first, others, axis),
            registers,
            builder.add("Slice", states, others, end, axis),
            axis=1,
        )
    return builder.norm(states, design.norm)


def _patch_positions(builder: LayerBuilder, design: PatchEmbeddings, grid: str) -> str:
    """Add the positions of the tokens and the patches; ``grid``: number of patches each way."""
    table = builder.read_table(design.positions, design.num_positions)
    if not design.stretch:
        return builder.number(table[np.newaxis])
    num_tokens = len(design.tokens)
    squares = table[num_tokens:].reshape(*design.grid, -1).transpose(2, 0, 1)
    sizes = builder.add("Concat", builder.integer([1, len(squares)]), grid, axis=0)
    is_antialiased = design.stretch == "antialiased"
    # coefficients and borders as torch's
    stretched = builder.add(
        "Resize",
        builder.nodes.array("squares", squares[np.newaxis]),
        "",
        "",
        sizes,
        mode="cubic",
        cubic_coeff_a=-0.5 if is_antialiased else -0.75,
        antialias=int(is_antialiased),
        exclude_outside=int(is_antialiased),
    )
    stretched = builder.add("Reshape", stretched, builder.integer([1, len(squares), -1]))
    stretched = builder.add("Transpose", stretched, perm=[0, 2, 1])
    tokens = builder.number(table[np.newaxis, :num_tokens])
    stretched = builder.add("CastLike", stretched, tokens)
    return builder.add("Concat", tokens, stretched, axis=1)


def _frames(builder: LayerBuilder, design: FrameEmbeddings, width: int) -> str:
    states, channels = "input_features", design.bins
    for stride, name in enumerate(design.convolutions, start=1):
        kernel = builder.tensor(f"{name}.weight", width, channels, 3)
        channels = width
        bias = builder.vector(f"{name}.bias")
        states = builder.add("Conv", states, kernel, bias, strides=[stride], pads=[1, 1])
        states = builder.add("Gelu", states)
    states = builder.add("Transpose", states, perm=[0, 2, 1])
    positions = builder.read_table(design.positions)
    return builder.add("Add", states, builder.number(positions[np.newaxis]))
