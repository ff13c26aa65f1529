"""A sentence in the built-in block, whose words are vectors of six readable numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.reading import Layer, Token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import AsyncClient, AttentionSpec, HeadVectors, ModelInfo, Vectors, Weights

__all__ = ["RiverBankReading", "is_river_bank"]

_WIDTH = 6
_MAX_CHARACTERS = 10_000
"""Longest text. Each word is looked up on the event loop, and 4 MB of words took 23 s."""
_WORD = r"\w+|[^\w\s]"
"""A word, or a punctuation mark, as polyhead_models.river_bank.tokenize splits sentences."""


def is_river_bank(model: ModelInfo) -> bool:
    """Whether a model is the built-in block, or another block for the same words."""
    has_name = model.provenance is not None and model.provenance.source.startswith("river bank")
    return has_name and model.spec is not None and model.spec.embed_dim == _WIDTH


class RiverBankReading:
    """A sentence of words that have vectors in the six-dimensional space."""

    is_cut = False
    picture = None

    def __init__(self, client: AsyncClient, model: ModelInfo, text: str) -> None:
        """Look the words up.

        Raises InvalidArgumentError, which names unknown words, or for a text that is too long.
        """
        from polyhead_models.river_bank import DIMENSIONS, embed

        if len(text) > _MAX_CHARACTERS:
            raise InvalidArgumentError(
                f"the text has {len(text)} characters: expected at most {_MAX_CHARACTERS}"
            )
        self._client = client
        self._model = model
        words = list(re.finditer(_WORD, text))
        self.tokens = tuple(Token(word[0], word[0].lower(), *word.span()) for word in words)
        self.keys = self.tokens
        try:
            self._query = embed([token.spelling for token in self.tokens])
        except ValueError as error:
            raise InvalidArgumentError(str(error)) from error
        assert model.spec is not None
        self.dimensions = DIMENSIONS
        self._spec = model.spec
        self.layers = (Layer("0", model.spec.num_heads),)

    @property
    def num_bytes(self) -> int:
        """Number of bytes of cached arrays."""
        return self._query.nbytes

    async def weights(self, layer: int, selection: Weights) -> NDArray[Any]:
        """Return the selected weights of the only layer, 0: (heads, queries, keys)."""
        del layer
        result = await self._client.attend(
            self._query,
            model=self._model.name,
            version=self._model.version,
            need_weights=selection,
            need_output=False,
        )
        assert result.attn_weights is not None
        weights: NDArray[Any] = result.attn_weights[0]
        return weights

    async def states(self, layer: int) -> NDArray[Any]:
        """Return the words' vectors; for 1, their sums with the output: (num_tokens, 6)."""
        states: NDArray[Any] = self._query[0]
        if layer == 0:
            return states
        result = await self._client.attend(
            self._query, model=self._model.name, version=self._model.version
        )
        assert result.output is not None
        return np.asarray(states + result.output[0])

    def spec(self, layer: int) -> AttentionSpec:
        """Return the block's mathematics."""
        del layer
        return self._spec

    async def vectors(self, layer: int, selection: Vectors) -> tuple[HeadVectors, NDArray[Any]]:
        """Return vectors of the heads, and the block's output: (num_tokens, 6)."""
        del layer
        result = await self._client.attend(
            self._query,
            model=self._model.name,
            version=self._model.version,
            head_vectors=selection,
        )
        assert result.head_vectors is not None
        assert result.output is not None
        return result.head_vectors, result.output[0]
