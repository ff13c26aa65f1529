"""The structure of a whole model: stacks, layers, and the segments of its graph.

It imports only the standard library and the configuration of blocks, because the server reads it.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from polyhead_models.config import MAX_DIM, AttentionConfig, ConfigError
from polyhead_models.json_dataclass import read_object

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MATRIX_KINDS", "WHOLE_KEY", "Stack", "Sublayer", "WholeConfig"]

WHOLE_KEY = "polyhead.whole"
"""ONNX metadata key under which the configuration of a whole model is stored, as JSON."""
MATRIX_KINDS = ("projections", "up", "down")
"""Kinds of matrices that can be int8: the attention's projections; the first matrix of the
feed-forward network, with its gate; the second matrix."""
INPUTS = {"token_ids": 0, "pixel_values": 3, "input_features": 2}
"""Names of inputs, and how many axes besides the first they have, if they are not tokens."""
STACK_NAMES = ("encoder", "decoder", "text", "vision")
MAX_LAYERS = 1024
"""Most layers of a stack."""


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """An attention block in a layer, with what stands before and after it.

    In a layer with hidden states x, the block's input is n = enter(x), its output is
    a = attention(n), and x becomes leave(x, n, a). The last sublayer's leave includes the layer's
    feed-forward network.
    """

    kind: str
    """self: queries, keys and values are computed from n; cross: keys and values from the
    memory."""
    attention: int
    """Number of the block's segment."""
    leave: int
    """Number of the segment that joins the block's output and the hidden states."""
    enter: int = -1
    """Number of the segment that makes the block's input of the hidden states; -1: the hidden
    states are the input."""
    block: AttentionConfig | None = None
    """The attention block; always set."""

    def __post_init__(self) -> None:
        if self.kind not in {"self", "cross"}:
            raise ConfigError(f"kind is {self.kind!r}; expected self or cross")
        if self.block is None:
            raise ConfigError("a sublayer has no block")
        if min(self.attention, self.leave, self.enter + 1) < 0:
            raise ConfigError("a sublayer has a segment with a negative number")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Layers one above the other, with what makes their first hidden states."""

    name: str
    """encoder, decoder, text or vision."""
    input: str
    """Name of the input: one of INPUTS."""
    hidden_size: int
    """Width of the hidden states."""
    output_size: int
    """Width of the output."""
    embed: int
    """Number of the segment that makes hidden states of the input."""
    finish: int = -1
    """Number of the segment that makes the output of the last hidden states; -1: they are it."""
    vocab_size: int = 0
    """Number of token ids; 0: the input is not tokens."""
    num_types: int = 0
    """Number of token types, which say to which of two texts a token belongs; 0: the model has
    none."""
    max_length: int = 0
    """Longest sequence of tokens that has positions, or the only length of another input; 0: any
    length."""
    trained_length: int = 0
    """Longest sequence of tokens that the model is made for, as its files state it, to which texts
    are cut on request; 0: they state none."""
    input_shape: tuple[int, ...] = ()
    """Axes of the input but the first, if it is not tokens; 0: any length."""
    patch_size: tuple[int, ...] = ()
    """Height and width of a patch, if images may have any size."""
    num_image_tokens: int = 0
    """Positions of such an image besides its patches."""
    start_token_id: int = -1
    """Token id that the sequences of a decoder begin with which attends to an encoder; -1: none is
    stated."""
    layers: tuple[tuple[Sublayer, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in STACK_NAMES:
            raise ConfigError(f"name is {self.name!r}; expected one of {', '.join(STACK_NAMES)}")
        if self.input not in INPUTS:
            raise ConfigError(f"input is {self.input!r}; expected one of {', '.join(INPUTS)}")
        if min(self.max_length, self.trained_length) < 0:
            raise ConfigError(
                f"max_length is {self.max_length}, and trained_length {self.trained_length}; "
                "expected lengths, or 0"
            )
        if len(self.input_shape) != INPUTS[self.input] or min(self.input_shape, default=0) < 0:
            raise ConfigError(f"input_shape is {self.input_shape}; it does not fit {self.input}")
        self._check_vocabulary()
        if self.patch_size and (
            self.input != "pixel_values" or len(self.patch_size) != 2 or min(self.patch_size) < 1
        ):
            raise ConfigError(f"patch_size is {self.patch_size}; expected height and width")
        if min(self.hidden_size, self.output_size) < 1 or min(self._counts) < 0:
            raise ConfigError("a stack has a negative number, or a width of 0")
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ConfigError(f"a stack has {len(self.layers)} layers; expected 1 to {MAX_LAYERS}")
        for layer in self.layers:
            self._check_layer(layer)

    @property
    def _counts(self) -> tuple[int, ...]:
        segments = self.embed, self.finish + 1
        counts = self.vocab_size, self.num_types, self.max_length, self.num_image_tokens
        return *segments, *counts

    def _check_vocabulary(self) -> None:
        if (self.vocab_size > 0) != (self.input == "token_ids"):
            raise ConfigError(f"vocab_size is {self.vocab_size}; it does not fit {self.input}")
        if self.num_types > 0 and self.input != "token_ids":
            raise ConfigError(f"num_types is {self.num_types}; {self.input} have no token types")
        start = self.start_token_id
        if not -1 <= start < max(self.vocab_size, 0):
            raise ConfigError(f"start_token_id is {start}; expected a token id, or -1")

    def _check_layer(self, layer: tuple[Sublayer, ...]) -> None:
        if [sublayer.kind for sublayer in layer] not in (["self"], ["self", "cross"]):
            raise ConfigError("a layer is not self-attention, and perhaps cross-attention after it")
        for sublayer in layer:
            block = sublayer.block
            assert block is not None
            sources = {block.kdim, block.vdim} if sublayer.kind == "self" else set()
            if {block.embed_dim, block.output_dim, *sources} != {self.hidden_size}:
                raise ConfigError(f"a block does not fit the stack's width of {self.hidden_size}")

    def length_of(self, shape: tuple[int, ...]) -> int:
        """Return the positions of an image or a spectrogram; 0 if its shape does not fit."""
        expected = self.input_shape
        if len(shape) != len(expected) or any(
            length not in {0, got} for length, got in zip(expected, shape, strict=True)
        ):
            return 0
        if not self.patch_size:
            return self.max_length
        height, width = (
            size // patch for size, patch in zip(shape[1:], self.patch_size, strict=True)
        )
        return height * width and height * width + self.num_image_tokens


@dataclass(frozen=True, kw_only=True)
class WholeConfig:
    """A whole model: one stack, two towers beside each other, or an encoder and a decoder."""

    stacks: tuple[Stack, ...]
    dtype: str = "float32"
    """Type of the numbers that are computed with."""
    int8: tuple[str, ...] = ()
    """Kinds of matrices that are int8, of MATRIX_KINDS; the others are float32."""
    truncation_side: str = "right"
    """Which end of a text is cut off on request: right or left."""
    weights_error: float = 0.0
    """Largest difference of an attention weight from float32, on random input; 0 if none is int8.
    The provenance has the error of the output."""

    def __post_init__(self) -> None:
        names = [stack.name for stack in self.stacks]
        if not 1 <= len(names) <= 2 or len({*names}) < len(names):
            raise ConfigError(f"the stacks are {', '.join(names)}; expected one, or two others")
        if self.dtype not in {"float32", "float16"}:
            raise ConfigError(f"dtype is {self.dtype!r}; expected float32 or float16")
        if not {*self.int8} <= {*MATRIX_KINDS}:
            raise ConfigError(f"int8 is {self.int8}; expected some of {', '.join(MATRIX_KINDS)}")
        if self.truncation_side not in {"right", "left"}:
            raise ConfigError(
                f"truncation_side is {self.truncation_side!r}; expected right or left"
            )
        if not 0.0 <= self.weights_error < math.inf:
            raise ConfigError(f"weights_error is {self.weights_error}; expected 0 or more")
        self._check_blocks()
        self._check_segments()

    def _check_blocks(self) -> None:
        memory_width = self.stacks[0].output_size
        for stack, _, sublayer in self.sublayers():
            block = sublayer.block
            assert block is not None
            if block.dtype != self.dtype:
                raise ConfigError(f"a block is of {block.dtype}, and the model of {self.dtype}")
            if sublayer.kind == "cross" and (
                stack is not self.stacks[-1] or {block.kdim, block.vdim} != {memory_width}
            ):
                raise ConfigError("cross-attention does not fit the output of the first stack")

    def _check_segments(self) -> None:
        """Raise ConfigError unless each segment is used, and for one purpose."""
        uses: dict[int, object] = {}
        for stack in self.stacks:
            segments: list[tuple[int, object]] = [
                (stack.embed, (stack.name, "embed")),
                (stack.finish, (stack.name, "finish")),
            ]
            for layer in stack.layers:
                for sublayer in layer:
                    segments += [
                        (sublayer.attention, sublayer.block),
                        (sublayer.enter, (stack.name, "enter")),
                        (sublayer.leave, (stack.name, "leave", sublayer.kind)),
                    ]
            for number, use in segments:
                if number >= 0 and uses.setdefault(number, use) != use:
                    raise ConfigError(f"segment {number} is used for two purposes")
        if {*uses} != {*range(len(uses))}:
            raise ConfigError("segments are missing, or are not numbered from 0 on")

    def stack(self, name: str) -> Stack:
        """Return a stack by its name; empty: the first. Raises ConfigError."""
        for stack in self.stacks:
            if name in {"", stack.name}:
                return stack
        has = ", ".join(stack.name for stack in self.stacks)
        raise ConfigError(f"the model has no {name} stack; it has: {has}")

    @property
    def has_memory(self) -> bool:
        """Whether the second stack attends to the output of the first."""
        return any(sublayer.kind == "cross" for _, _, sublayer in self.sublayers())

    def sublayers(self) -> Iterator[tuple[Stack, int, Sublayer]]:
        """Yield every sublayer with its stack and its layer's number."""
        for stack in self.stacks:
            for number, layer in enumerate(stack.layers):
                for sublayer in layer:
                    yield stack, number, sublayer

    def to_json(self) -> str:
        """Return one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> WholeConfig:
        """Parse the output of to_json. Raises ConfigError for any other text."""
        return read_object(cls, text, ConfigError, max_integer=MAX_DIM)
