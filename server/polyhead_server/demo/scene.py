"""One sentence with the server's result, and the figures that the story quotes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead.errors import ServerError
from polyhead_models.river_bank import MODEL_NAME, embed, tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead import Client
    from polyhead.types import Execution

__all__ = ["Scene", "attend_to", "centroid", "cosine"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A sentence, its embeddings, and the server's result."""

    sentence: str
    """The sentence as given."""
    tokens: tuple[str, ...]
    """Its words and punctuation."""
    before: NDArray[np.float32]
    """(tokens, 6): the embeddings that were sent."""
    after: NDArray[np.float32]
    """(tokens, 6): the embeddings plus the block's output, as in a transformer."""
    attn_weights: NDArray[np.float32]
    """(heads, tokens, tokens): how much each word attends to each other word."""
    execution: Execution
    """How the server executed the request."""

    def attended(self, head: int, position: int) -> list[tuple[str, float]]:
        """Return the other words and how much the token at a position attends to them, descending.

        The weights of a word that occurs several times are added up.
        """
        word = self.tokens[position]
        weight_of: dict[str, float] = {}
        for token, weight in zip(self.tokens, self.attn_weights[head, position], strict=True):
            if token != word:
                weight_of[token] = weight_of.get(token, 0.0) + float(weight)
        return sorted(weight_of.items(), key=lambda item: -item[1])

    def focus(self) -> int:
        """Return the position of `bank`, or else of the word that moved most."""
        if "bank" in self.tokens:
            return self.tokens.index("bank")
        similarities = [cosine(old, new) for old, new in zip(self.before, self.after, strict=True)]
        return int(np.argmin(similarities))


def attend_to(client: Client, sentence: str) -> Scene:
    """Send a sentence through the model `river-bank`.

    Raises UnknownWordError and ValueError for a sentence without embeddings; PolyheadError if the
    call fails.
    """
    tokens = tokenize(sentence)
    query = embed(tokens)
    result = client.attend(query, model=MODEL_NAME, need_weights=True)
    if result.output is None or result.attn_weights is None:
        raise ServerError(
            f"the server did not send the output and attention weights of {MODEL_NAME} requested"
        )
    return Scene(
        sentence=sentence,
        tokens=tokens,
        before=query[0],
        after=query[0] + result.output[0],
        attn_weights=result.attn_weights[0],
        execution=result.execution,
    )


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the cosine of the angle between two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def centroid(words: Sequence[str]) -> NDArray[np.float32]:
    """Return the mean of some words' embeddings: (6,)."""
    mean: NDArray[np.float32] = embed(words)[0].mean(axis=0)
    return mean
