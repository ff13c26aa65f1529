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
from polyhead_models.whole.layers import LayerBuilder

if TYPE_CHECKING:
    from polyhead_models.checkpoint.stack_tensors import StackTensors
    from polyhead_models.graph.nodes import Nodes

__all__ = ["add_embeddings", "describe_input"]

Embeddings = TokenEmbeddings | PatchEmbeddings | FrameEmbeddings


def describe_input(design: Embeddings, tensors: StackTensors) -> dict[str, Any]:
    """Return the fields of a Stack that describe its input."""
    match design:
        case TokenEmbeddings():
            length = design.trained_length
            max_length = 0
            if design.positions:
                rows = tensors.shape(f"{design.positions}.weight")[0]
                length = max_length = rows - design.first_row
            vocab_size = tensors.shape(f"{design.words[0]}.weight")[0]
            start = design.start_token_id
            return {
                "input": "token_ids",
                "vocab_size": vocab_size,
                "num_types": tensors.shape(f"{design.types}.weight")[0] if design.types else 0,
                "max_length": max_length,
                "trained_length": length,
                # a default of the family may be beyond a smaller vocabulary
                "start_token_id": start if start < vocab_size else -1,
            }
        case PatchEmbeddings():
            if not design.stretch:
                return {
                    "input": "pixel_values",
                    "input_shape": (design.channels, *design.image_size),
                    "max_length": design.num_positions,
                }
            num_registers = tensors.shape(design.registers)[0] if design.registers else 0
            return {
                "input": "pixel_values",
                "input_shape": (design.channels, 0, 0),
                "patch_size": design.patch_size,
                "num_image_tokens": len(design.tokens) + num_registers,
            }
        case FrameEmbeddings():
            length = tensors.shape(design.positions)[0]
            return {
                "input": "input_features",
                "input_shape": (design.bins, 2 * length),
                "max_length": length,
            }


def add_embeddings(nodes: Nodes, design: Embeddings, tensors: StackTensors) -> None:
    """Compute the hidden states that enter the first layer."""
    builder = LayerBuilder(nodes, tensors)
    match design:
        case TokenEmbeddings():
            states = _tokens(builder, design)
        case PatchEmbeddings():
            states = _patches(builder, design)
        case FrameEmbeddings():
            states = _frames(builder, design)
    builder.end(states)


def _tokens(builder: LayerBuilder, design: TokenEmbeddings) -> str:
    # not stored here, because it may take as much memory as everything that is read later
    table = builder.tensor(f"{design.words[0]}.weight")
    states = builder.scaled(builder.add("Gather", table, "token_ids"), design.scale)
    if design.mask_id >= 0:
        states = _without_masked(builder, design, states)
    if design.word_projection:
        states = builder.linear(states, design.word_projection)
    if design.positions:
        positions = builder.tensor(f"{design.positions}.weight")
        states = builder.add("Add", states, _positions(builder, design, positions))
    if design.types:
        table = builder.number(builder.read(f"{design.types}.weight"))
        # zeros in the shape of the tokens, because the default is one type for all of them
        zeros = builder.add("Mul", "token_ids", builder.integer(0))
        types = builder.add("Add", zeros, "token_type_ids")
        states = builder.add("Add", states, builder.add("Gather", table, types))
    states = builder.norm(states, design.norm)
    return builder.linear(states, design.projection) if design.projection else states


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
    """Compute 1 for each token whose id differs from this one, 0 for the others."""
    is_it = builder.add("Equal", "token_ids", builder.integer(token_id))
    return builder.add("Cast", builder.add("Not", is_it), to=dtype)


def _without_masked(builder: LayerBuilder, design: TokenEmbeddings, states: str) -> str:
    """Set masked tokens to zero, and make up for it by scaling the sequence."""
    is_kept = _are_not(builder, design.mask_id, TensorProto.FLOAT)
    share = builder.add("ReduceMean", is_kept, builder.integer([1]))
    scale = builder.add("Unsqueeze", builder.add("Div", is_kept, share), builder.integer([2]))
    scale = builder.add("CastLike", scale, states)
    return builder.scaled(builder.add("Mul", states, scale), 1 - 0.15 * 0.8)


def _patches(builder: LayerBuilder, design: PatchEmbeddings) -> str:
    inputs = ["pixel_values", builder.tensor(f"{design.convolution}.weight")]
    if design.has_bias:
        inputs.append(builder.tensor(f"{design.convolution}.bias"))
    patches = builder.add("Conv", *inputs, strides=list(design.patch_size))
    grid = builder.add("Shape", patches, start=2)
    patches = builder.add("Reshape", patches, builder.integer([0, 0, -1]))
    states = builder.add("Transpose", patches, perm=[0, 2, 1])
    batch_size = builder.add("Shape", "pixel_values", start=0, end=1)
    each_image = builder.add("Concat", batch_size, builder.integer([1, 1]), axis=0)
    if design.tokens:
        rows = [builder.number(builder.read(name).reshape(1, 1, -1)) for name in design.tokens]
        tokens = [builder.add("Expand", row, each_image) for row in rows]
        states = builder.add("Concat", *tokens, states, axis=1)
    states = builder.add("Add", states, _patch_positions(builder, design, grid))
    if design.registers:
        first, others, end = (builder.integer([index]) for index in (0, 1, 2**62))
        axis = builder.integer([1])
        vectors = builder.number(builder.read(design.registers)[np.newaxis])
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
    table = builder.read(design.positions)
    if not design.stretch:
        return builder.number(table[np.newaxis])
    num_tokens = len(design.tokens)
    squares = table[num_tokens:].reshape(*design.stretched_grid, -1).transpose(2, 0, 1)
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


def _frames(builder: LayerBuilder, design: FrameEmbeddings) -> str:
    states = "input_features"
    for stride, name in enumerate(design.convolutions, start=1):
        kernel, bias = builder.tensor(f"{name}.weight"), builder.tensor(f"{name}.bias")
        states = builder.add("Conv", states, kernel, bias, strides=[stride], pads=[1, 1])
        states = builder.add("Gelu", states)
    states = builder.add("Transpose", states, perm=[0, 2, 1])
    positions = builder.read(design.positions)
    return builder.add("Add", states, builder.number(positions[np.newaxis]))
