"""Which tokens are followed through the layers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.path import FollowedToken
from polyhead_explorer.reading.reading import Layer, Token

SPECIAL = Token("[CLS]", "[CLS]", 0, 0)


def reading_of(*tokens, num_layers=1):
    return SimpleNamespace(tokens=tokens, layers=(Layer("0", 1),) * num_layers)


def test_an_anchor_is_the_last_token_of_its_word():
    word = (Token("sail", "sail", 0, 4), Token("boat", "##boat", 4, 8))
    assert FollowedToken.anchor(reading_of(SPECIAL, *word, SPECIAL), "sailboat").token == 2
    with pytest.raises(InvalidArgumentError, match="'!' cannot be an anchor: it has no token"):
        FollowedToken.anchor(reading_of(SPECIAL, SPECIAL), "!")


@pytest.mark.parametrize(("num_tokens", "num_layers"), [(3, 1), (512, 1), (9000, 12), (9000, 2000)])
def test_of_long_texts_some_tokens_are_followed(num_tokens, num_layers):
    word = Token("a", "a", 0, 1)
    reading = reading_of(*[word] * num_tokens, num_layers=num_layers)
    followed = FollowedToken.among_others(reading, 2)
    assert followed.tokens[followed.index] == 2
    assert len(followed.tokens) <= max(1024 // (num_layers + 1), 2)
    assert len(followed.tokens) == len(set(followed.tokens))
    if num_tokens * (num_layers + 1) <= 1024:
        assert followed.tokens == list(range(num_tokens))
