"""The description of a whole model besides its attention blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "FeedForward",
    "FrameEmbeddings",
    "Layers",
    "Norm",
    "PatchEmbeddings",
    "Residual",
    "StackDesign",
    "TokenEmbeddings",
]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm of hidden states: LayerNorm, or RMSNorm."""

    name: str
    """Name of the module, with ``{layer}`` in a layer."""
    eps: float
    is_rms: bool = False
    has_bias: bool = True
    """Whether a LayerNorm has a bias; an RMSNorm has none."""
    is_less_one: bool = False
    """Whether the weight is stored with 1 subtracted."""
    width: int = 0
    """Width of the hidden states, if the norm has no weights; 0: it has weights."""
    skips_first_layer: bool = False
    """Whether the first layer has no such norm (ModernBERT)."""


@dataclass(frozen=True, kw_only=True)
class Residual:
    """A residual step: x becomes joined(x + scale * after(f(before(x)))).

    f is the attention block or the feed-forward network. A missing part does nothing.
    """

    before: Norm | None = None
    after: Norm | None = None
    joined: Norm | None = None
    scale: str = ""
    """Name of a vector that multiplies the addend (LayerScale)."""


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate."""

    up: str
    """Name of a linear map, with ``{layer}``."""
    down: str
    activation: str
    """As transformers names it: gelu, gelu_new, silu, relu and so on."""
    width: int
    """Width between the maps; 0: the file's, because config.json does not state it."""
    has_bias: bool = True
    """Whether the maps have biases."""
    gate: str = ""
    """If a file holds gate and up in one tensor, the gate comes first."""
    is_fused: bool = False
    """Whether ``up`` holds two maps, of which the first is activated, as by a gate."""
    is_transposed: bool = False
    """Whether weights are (in_features, out_features), as in transformers' Conv1D."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The parts that all layers of a stack have besides attention."""

    attention: Residual
    feed_forward: FeedForward
    feed_forward_step: Residual
    cross_attention: Residual | None = None
    is_parallel: bool = False
    """Whether x becomes x + attention(n) + feed_forward(m) with m = before(x) of its step, or m = n
    if its step has no norm."""
    residual_scale: float = 1.0
    """Factor on every addend to the hidden states."""
    adds_to_normed: bool = False
    """Whether results are added to the normed hidden states (BLOOM's option)."""


@dataclass(frozen=True, kw_only=True)
class TokenEmbeddings:
    """Hidden states of token ids: words, positions and the first type, normed and projected."""

    words: tuple[str, ...]
    """Possible names of the table of words."""
    vocab_size: int
    """Number of words; 0: the file's, because config.json does not state it."""
    width: int = 0
    """Width of the words; 0: the width of the hidden states."""
    scale: float = 1.0
    """Factor on the words."""
    word_projection: str = ""
    """Name of a linear map, without a bias, of the words to the width of the positions."""
    positions: str = ""
    """Name of the table of positions, if positions are learned."""
    num_positions: int = 0
    """Number of rows of this table; 0: the file's, because config.json does not state it."""
    first_position: int = 0
    """Row of the first token's position, unless positions count."""
    padding_id: int = -1
    """If not negative, positions count the tokens with other ids, and those with it have the row
    of this number (RoBERTa)."""
    mask_id: int = -1
    """If not negative, words with this id are zero, and all words are multiplied by 0.88, the share
    of unmasked tokens in ESM's training, and divided by their share in the sequence."""
    types: str = ""
    """Name of the table of token types, of which every token has the first."""
    num_types: int = 0
    """Number of token types; 0: the file's, because config.json does not state it."""
    norm: Norm | None = None
    projection: str = ""
    """Name of a linear map, with a bias, to the width of the hidden states."""
    trained_length: int = 0
    """Longest sequence that config.json states for positions that are not learned; 0: none."""
    start_token_id: int = -1
    """Token id that the sequences of a decoder begin with; -1: none is stated."""

    @property
    def first_row(self) -> int:
        """Row of the first token's position."""
        return self.padding_id + 1 if self.padding_id >= 0 else self.first_position


@dataclass(frozen=True, kw_only=True)
class PatchEmbeddings:
    """Hidden states of an image: a convolution of patches, after tokens of its own."""

    convolution: str
    has_bias: bool = True
    """Whether the convolution has a bias."""
    channels: int
    image_size: tuple[int, int]
    """Height and width in pixels."""
    patch_size: tuple[int, int]
    tokens: tuple[str, ...] = ()
    """Names of the vectors that stand before the patches, such as the class token's."""
    positions: str
    stretch: str = ""
    """How positions are stretched to images of other sizes: cubic, or antialiased (and cubic);
    empty: all images have one size."""
    registers: str = ""
    """Name of the vectors that stand behind the first token, and have no positions."""
    num_registers: int = 0
    norm: Norm | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches from top to bottom, and from left to right."""
        (height, width), (patch_height, patch_width) = self.image_size, self.patch_size
        return height // patch_height, width // patch_width

    @property
    def stretched_grid(self) -> tuple[int, int]:
        """The same of the table of positions that is stretched.

        transformers takes the table for a square if it has a square number of patches.
        """
        height, width = self.grid
        side = math.isqrt(height * width)
        return (side, side) if side**2 == height * width else self.grid

    @property
    def num_positions(self) -> int:
        """Number of tokens and patches."""
        height, width = self.grid
        return len(self.tokens) + height * width


@dataclass(frozen=True, kw_only=True)
class FrameEmbeddings:
    """Hidden states of a spectrogram: two convolutions, of which the second halves the length."""

    convolutions: tuple[str, str]
    bins: int
    positions: str
    num_positions: int
    """Number of positions, which every spectrogram fills; 0: the file's."""


@dataclass(frozen=True, kw_only=True)
class StackDesign:
    """A stack of layers as a whole. Names are the file's names without the stack's prefix."""

    stack: str
    embeddings: TokenEmbeddings | PatchEmbeddings | FrameEmbeddings
    layers: Layers
    final: Norm | None = None
    projection: str = ""
    """Name of a linear map, without a bias, after the final norm, to the width of the words."""
    older: tuple[tuple[str, str], ...] = ()
    """Parts of names, and how other versions of transformers spell them."""
