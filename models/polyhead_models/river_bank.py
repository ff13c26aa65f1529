"""The river bank: a word space of six readable dimensions, and an attention block over it.

Every word is six numbers, chosen by hand. `bank` lies between two groups, as near to River, Fish
and Fisherman as to Hospital, PostOffice and Restaurant; only the rest of the sentence decides which
bank is meant. The block shows this: `embed(words) + output` are the words as the sentence moves
them, as in a transformer, where a block's output is added to its input.

Nothing is trained. The weights are a few round numbers, each explained below, and the same to the
bit on every machine. Word order has no effect, because there are no position embeddings.

``python -m polyhead_models.river_bank`` exports the block into the built-in repository.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import numpy as np

from polyhead_models.blocks import make_block
from polyhead_models.config import AttentionConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from polyhead_models.blocks import AttentionBlock

__all__ = [
    "DIMENSIONS",
    "HEADS",
    "MODEL_NAME",
    "TOWN_GROUP",
    "WATER_GROUP",
    "UnknownWordError",
    "embed",
    "river_bank_block",
    "tokenize",
    "vocabulary",
]

MODEL_NAME = "river-bank"
"""Name of the model in the built-in repository."""

DIMENSIONS = ("town", "water", "money", "place", "action", "thing")
"""Meaning of each of the six numbers: how much the word has to do with towns (negative: with
nature), with water, with money; whether it is a place, an action, a thing (negative: a grammatical
word)."""

WATER_GROUP = ("River", "Fish", "Fisherman")
"""Three words that lie close together, at the water."""
TOWN_GROUP = ("Hospital", "PostOffice", "Restaurant")
"""Three words that lie close together, in town."""

HEADS = ("meaning", "verb and noun")
"""Name of each head, for the words that it joins, in the order of the heads."""

_EMBEDDINGS = """
             town  water  money  place  action  thing

river        -0.9    0.9   -0.2    0.4     0.2    0.6
fish         -0.8    0.9   -0.2    0.1     0.8    0.5
fisherman    -0.6    0.9   -0.2   -0.1     0.5    0.6
water        -0.8    0.9   -0.2    0.2     0.1    0.6
lake         -0.8    0.9   -0.2    0.5     0.0    0.6
shore        -0.8    0.9   -0.2    0.6     0.0    0.6
boat         -0.6    0.9   -0.2    0.2     0.3    0.6
swim         -0.6    0.9   -0.2    0.1     0.8    0.3

hospital      0.9   -0.2    0.2    0.6     0.1    0.6
postoffice    0.9   -0.2    0.4    0.6     0.0    0.6
restaurant    0.8   -0.1    0.3    0.5     0.2    0.6

money         0.7   -0.2    0.9   -0.3     0.0    0.7
cash          0.7   -0.2    0.9   -0.3     0.1    0.7
loan          0.7   -0.2    0.9   -0.3     0.1    0.7
account       0.7   -0.2    0.9   -0.1     0.0    0.7
deposit       0.7   -0.2    0.9   -0.2     0.8    0.5
pay           0.7   -0.2    0.9   -0.2     0.8    0.3

bank          0.0    0.3    0.3    0.3     0.0    0.6

tom           0.0    0.0    0.0   -0.6     0.4    0.2
he            0.0    0.0    0.0   -0.5     0.4    0.1
she           0.0    0.0    0.0   -0.5     0.4    0.1

going         0.0    0.0    0.0    0.6     0.7   -0.1
gave          0.0    0.0    0.0   -0.4     0.8   -0.1
sat           0.0    0.0    0.0    0.6     0.6   -0.1
waits         0.0    0.0    0.0    0.5     0.5   -0.1

to            0.0    0.0    0.0    0.4     0.0   -0.7
at            0.0    0.0    0.0    0.4     0.0   -0.7
by            0.0    0.0    0.0    0.4     0.0   -0.7
in            0.0    0.0    0.0    0.4     0.0   -0.7
from          0.0    0.0    0.0    0.3     0.0   -0.7
is            0.0    0.0    0.0    0.0     0.1   -0.7
was           0.0    0.0    0.0    0.0     0.1   -0.7
of            0.0    0.0    0.0    0.0     0.0   -0.7
the           0.0    0.0    0.0    0.0     0.0   -0.8
a             0.0    0.0    0.0    0.0     0.0   -0.8
and           0.0    0.0    0.0    0.0     0.0   -0.8
,             0.0    0.0    0.0    0.0     0.0   -0.9
.             0.0    0.0    0.0    0.0     0.0   -0.9
"""


class UnknownWordError(ValueError):
    """A word that the six-dimensional space does not have."""


def _read_embeddings() -> dict[str, NDArray[np.float32]]:
    rows = [line.split() for line in _EMBEDDINGS.splitlines() if line][1:]
    return {word: np.array(numbers, dtype=np.float32) for word, *numbers in rows}


_EMBEDDING_BY_WORD = _read_embeddings()


def vocabulary() -> tuple[str, ...]:
    """Every word of the space, in lower case, with related words next to each other."""
    return tuple(_EMBEDDING_BY_WORD)


def tokenize(sentence: str) -> tuple[str, ...]:
    """Split a sentence into words in lower case; each punctuation mark is a token of its own."""
    return tuple(re.findall(r"\w+|[^\w\s]", sentence.lower()))


def embed(tokens: Sequence[str]) -> NDArray[np.float32]:
    """Look words up: (1, number of tokens, 6), to be sent as a query. Case does not matter.

    Raises UnknownWordError, which lists the unknown words and the known ones, and ValueError if
    there are no tokens.
    """
    if not tokens:
        raise ValueError("there is no word to embed; give at least one")
    if unknown := [token for token in tokens if token.lower() not in _EMBEDDING_BY_WORD]:
        raise UnknownWordError(
            f"the six-dimensional space does not know: {', '.join(dict.fromkeys(unknown))}. "
            f"It knows: {' '.join(_EMBEDDING_BY_WORD)}"
        )
    return np.stack([_EMBEDDING_BY_WORD[token.lower()] for token in tokens])[np.newaxis]


def river_bank_block() -> AttentionBlock:
    """Build the attention block: two heads of width 3 over the six dimensions, no biases.

    A head's score is the dot product of one word's query and another word's key, so each
    coordinate below is one reason for a word to attend to another.
    """
    config = AttentionConfig(embed_dim=len(DIMENSIONS), num_heads=len(HEADS))

    # Head "meaning": words attend to words of the same sense, water to water and money to money;
    # `bank`, which has a little of both, attends to the sense that the sentence contains. Words
    # that carry meaning ignore grammatical words, and the reverse.
    same_sense = ({"water": 8.0}, {"money": 8.0}, {"thing": 3.0})

    # Head "verb and noun": actions attend to things, things to actions, and words of place to
    # words of place. For a word that is both, such as `fish`, being an action lowers its score as
    # a thing, because it would attend to itself otherwise.
    is_action = {"action": 6.0}
    is_object = {"thing": 6.0, "action": -3.0}
    is_place = {"place": 3.0}

    # The first head passes on the first three dimensions of the words that it attends to, their
    # sense; the second passes on the other three, their role, with a smaller factor.
    weights = {
        "q_proj.weight": _matrix(*same_sense, is_action, is_object, is_place),
        "k_proj.weight": _matrix(*same_sense, is_object, is_action, is_place),
        "v_proj.weight": np.eye(6, dtype=np.float32),
        "out_proj.weight": np.diag(np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3], dtype=np.float32)),
    }
    return make_block(config, weights, source="river bank, written by hand")


def _matrix(*rows: Mapping[str, float]) -> NDArray[np.float32]:
    """Make a projection of rows that are given as dimension -> factor."""
    return np.array([[row.get(name, 0.0) for name in DIMENSIONS] for row in rows], np.float32)


if __name__ == "__main__":
    # imported here, because the words and the block must work without onnx
    from polyhead_models import builtin, graph, store

    model = graph.build_model(river_bank_block())
    path = store.write_model(builtin.repository(), MODEL_NAME, model, version=1, overwrite=True)
    sys.stdout.write(f"wrote {path}\n")
