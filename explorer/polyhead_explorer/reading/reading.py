"""The protocol of a text or a picture in a model, which is the same for all kinds of models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from polyhead import AttentionSpec, HeadVectors, Vectors, Weights

__all__ = ["Grid", "Layer", "Reading", "Subject", "Token", "is_cross", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A text or a picture, and the model that reads it."""

    model: str
    version: int | None
    """None means the newest version."""
    text: str
    image: str | None = None
    """The name of a picture, which is read in place of the text."""
    text_pair: str | None = None
    """The second text, which the tokenizer joins to the text. None means that there is none."""
    decoder_text: str | None = None
    """The decoder's text. None means that the encoder's attention is read."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text."""

    text: str
    """Its part of the text; the name of a token that is not in the text."""
    spelling: str
    """Its spelling in the vocabulary."""
    start: int
    """Its begin in its text, in characters."""
    end: int
    """Its end in its text; equal to `start` for special tokens."""
    text_index: int = 0
    """0 means that it is from the text, 1 from the second text; 0 for special tokens."""

    @property
    def is_special(self) -> bool:
        """Whether the tokenizer added it to the text."""
        return self.start == self.end

    def to_json(self) -> dict[str, Any]:
        """Return the token as JSON fields."""
        return {**asdict(self), "is_special": self.is_special}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose attention can be shown."""

    name: str
    """Its name on the page, such as ``3`` or ``encoder 3``."""
    num_heads: int


@dataclass(frozen=True, slots=True)
class Grid:
    """The patches of a picture. Their tokens are in order of rows, from the top left corner."""

    rows: int
    columns: int
    first: int
    """Index of the first patch among the tokens."""


class Reading(Protocol):
    """A text or a picture in a model. Layers count from 0. Each method raises PolyheadError."""

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens that attend, in the order of the rows. Their states pass the layers."""

    @property
    def keys(self) -> tuple[Token, ...]:
        """The tokens that are attended to, in the order of the columns.

        In self-attention they are ``tokens``; in cross-attention, the encoder's tokens.
        """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they run."""

    @property
    def is_cut(self) -> bool:
        """Whether the text was cut because it is too long for the model."""

    @property
    def picture(self) -> Grid | None:
        """The patches of a picture; None for a text."""

    async def weights(self, layer: int, selection: Weights) -> NDArray[Any]:
        """Return the selected weights of a layer: (heads, queries, keys)."""

    async def states(self, layer: int) -> NDArray[Any]:
        """Return the hidden states before a layer: (num_tokens, width).

        If ``layer`` is the number of layers, they are the states after the last one.
        """

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The meaning of each number of the hidden states; empty if it is not known."""

    def spec(self, layer: int) -> AttentionSpec:
        """Return the mathematics of a layer's attention."""

    async def vectors(
        self, layer: int, selection: Vectors
    ) -> tuple[HeadVectors, NDArray[Any] | None]:
        """Return vectors of a layer's heads, with a batch axis of length 1.

        For a block, the second value is its output: (num_tokens, width); otherwise it is None.
        """

    @property
    def num_bytes(self) -> int:
        """Number of bytes of cached arrays."""


def is_cross(reading: Reading) -> bool:
    """Whether a decoder's tokens attend to the encoder's."""
    return reading.keys is not reading.tokens


def tokens_of(
    texts: Sequence[str],
    spellings: Sequence[str],
    spans: Iterable[tuple[int, int]],
    text_indices: Iterable[int] = (),
) -> tuple[Token, ...]:
    """Return the tokens of a text, or of a text and its second text.

    ``spans``: the begin and the end of each token in its text. ``text_indices``: which of the texts
    each token is from; empty means that all are from the first.
    """
    return tuple(
        Token(texts[index][start:end].strip() or _readable(spelling), spelling, start, end, index)
        for spelling, (start, end), index in zip(
            spellings, spans, list(text_indices) or [0] * len(spellings), strict=True
        )
    )


def _readable(token: str) -> str:
    """Remove the signs for spaces that byte-level BPE, SentencePiece and CLIP write in tokens."""
    return token.lstrip("\u0120\u2581").removesuffix("</w>") or token
