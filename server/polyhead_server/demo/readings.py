"""How a whole model reads the sentences of the river and of the money: numbers, without words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polyhead_server.demo.scene import cosine
from polyhead_server.demo.words import Word, find, readable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead import Client
    from polyhead.types import ForwardResult, LayerKey

__all__ = ["Head", "Readings"]

MONEY = "Tom is going to deposit money at the bank."
"""`bank` has the same place as in story.FISHING, so the same vector enters layer 0. `money` comes
before `bank`, because in causal models a token attends only to tokens before it."""
SHORE_ELSEWHERE = "They sat by the water on the shore."
MONEY_ELSEWHERE = "She counted the money."

_POSITIONAL_WEIGHT = 0.5
"""A head attends by position if each token's weight for the previous token exceeds this."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head of a layer, and the attention of `bank` in it."""

    layer: LayerKey
    number: int
    to_river: float
    """How much `bank` attends to `river` in the first sentence."""
    in_second: tuple[str, float]
    """The token to which `bank` attends most in the second sentence, and its weight."""
    is_positional: bool
    """Whether each token attends to the previous one, whatever its word."""


class Readings:
    """The results of a whole model for four sentences, from one call."""

    def __init__(self, client: Client, model: str, first: str) -> None:
        """``first``: the sentence of the river.

        Raises UsageError for a tokenizer that leaves words out; PolyheadError if the call fails.
        """
        self.sentences = (first, MONEY)
        self.elsewhere = (SHORE_ELSEWHERE, MONEY_ELSEWHERE)
        self.result: ForwardResult = client.forward(
            [*self.sentences, *self.elsewhere],
            model=model,
            need_weights=True,
            need_hidden_states=True,
            need_output=False,
        )
        self._river = find(self.result, 0, "river")
        self._banks = [find(self.result, batch, "bank") for batch in range(2)]
        self._others = [find(self.result, 2, "shore"), find(self.result, 3, "money")]

    @property
    def notes(self) -> list[str]:
        """Remarks on the words that are not one token."""
        words: list[Word] = [self._river, *self._banks, *self._others]
        return [note for note in dict.fromkeys(word.note for word in words) if note]

    def to_river(self) -> NDArray[np.float32]:
        """How much `bank` attends to the tokens of `river`: (layers, heads)."""
        keys = list(self._river.places)
        bank = self._banks[0].last
        weights = self.result.attn_weights.values()
        return np.stack([layer[0, :, bank, keys].sum(axis=0) for layer in weights])

    def strongest(self, count: int) -> list[Head]:
        """Return the heads in which `bank` attends to `river` most, strongest first."""
        weights, layers = self.to_river(), list(self.result.attn_weights)
        order = np.argsort(-weights, axis=None, kind="stable")[:count].tolist()
        places = (divmod(place, weights.shape[1]) for place in order)
        return [
            self._head(layers[layer], head, float(weights[layer, head])) for layer, head in places
        ]

    def cosines(self) -> NDArray[np.float64]:
        """Cosines of `bank` with `shore` and with `money` in sentences of their own.

        (layers + 1, words, sentences): index k is the input of layer k, and the last index the
        output of the last layer.
        """
        return np.array(
            [
                [
                    [
                        cosine(states[n, bank.last], states[2 + m, other.last])
                        for n, bank in enumerate(self._banks)
                    ]
                    for m, other in enumerate(self._others)
                ]
                for states in self.result.hidden_states.values()
            ]
        )

    def _head(self, layer: LayerKey, number: int, to_river: float) -> Head:
        length = self.result.lengths[0]
        weights = self.result.attn_weights[layer][0, number, :length, :length]
        [(token, weight)] = self.result.top(
            self._banks[1].last, layer=layer, head=number, batch=1, k=1
        )
        to_previous = np.diagonal(weights, offset=-1)
        return Head(
            layer,
            number,
            to_river,
            (readable(token), weight),
            bool(to_previous.min() > _POSITIONAL_WEIGHT),
        )
