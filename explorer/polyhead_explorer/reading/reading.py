"""What the page asks of a text in a model, whatever kind of model it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from polyhead import AttentionSpec, HeadVectors, Vectors, Weights

__all__ = ["Grid", "Layer", "Reading", "Subject", "Token", "is_cross", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is read, and the model that reads it."""

    model: str
    version: int | None
    """None: the newest."""
    text: str
    image: str | None = None
    """The name of a picture, which is read in place of the text."""
    decoder_text: str | None = None
    """What the decoder reads while it looks at the text; None: the encoder alone reads."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text."""

    text: str
    """Its part of the text, or its name where it is none."""
    spelling: str
    """As the vocabulary spells it."""
    start: int
    """Where it begins in the text, in characters."""
    end: int
    """Where it ends; equal to `start` for special tokens."""

    @property
    def is_special(self) -> bool:
        """Whether the tokenizer added it to the text."""
        return self.start == self.end


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose attention can be shown."""

    name: str
    """As the page writes it, such as ``3`` or ``encoder 3``."""
    num_heads: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The patches of a picture: tokens in rows from its top left corner."""

    rows: int
    columns: int
    first: int
    """The first patch among the tokens."""


class Reading(Protocol):
    """A text or a picture in a model. Layers count from 0. Each method raises PolyheadError."""

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that look, in the order of the rows: those whose states pass the layers."""

    @property
    def keys(self) -> tuple[Token, ...]:
        """The tokens that are looked at, in the order of the columns.

        Of self-attention they are ``tokens``; of cross-attention they are the encoder's.
        """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they run."""

    @property
    def is_cut(self) -> bool:
        """Whether the text was longer than the model reads."""

    @property
    def picture(self) -> Grid | None:
        """The patches of a picture; None: it is a text."""

    async def weights(self, layer: int, wanted: Weights) -> NDArray[Any]:
        """Return weights of a layer: (heads, queries, keys) as selected."""

    async def states(self, layer: int) -> NDArray[Any]:
        """Return what enters a layer: (num_tokens, width).

        The number of layers stands for what leaves the last one.
        """

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What each number of the hidden states means; empty where nobody knows."""

    def spec(self, layer: int) -> AttentionSpec:
        """Return the mathematics of a layer's attention."""

    async def vectors(self, layer: int, wanted: Vectors) -> tuple[HeadVectors, NDArray[Any] | None]:
        """Return vectors of a layer's heads, with a batch axis of length 1.

        Of a block, also what its attention adds to each token: (num_tokens, width).
        """

    @property
    def num_bytes(self) -> int:
        """How much memory it keeps."""


def is_cross(reading: Reading) -> bool:
    """Whether tokens look at those of another text."""
    return reading.keys is not reading.tokens


def tokens_of(
    text: str, spellings: Iterable[str], spans: Iterable[tuple[int, int]]
) -> tuple[Token, ...]:
    """Return the tokens of a text by the vocabulary's spellings and the places in the text."""
    return tuple(
        Token(text[start:end].strip() or _readable(spelling), spelling, start, end)
        for spelling, (start, end) in zip(spellings, spans, strict=True)
    )


def _readable(token: str) -> str:
    """Remove the signs for spaces that byte-level BPE, SentencePiece and CLIP write in tokens."""
    return token.lstrip("\u0120\u2581").removesuffix("</w>") or token
