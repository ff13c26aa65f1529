"""The tokens of a text's words."""

import pytest

from polyhead.words import last_tokens

#        0     6 9   13 17   22
TEXT = "Don't go to a river-bank."
SPANS = [
    (0, 0),
    *((0, 3), (3, 4), (4, 5), (6, 8), (9, 11), (12, 13)),
    *((14, 16), (16, 19), (19, 20), (20, 22), (22, 24), (24, 25)),
    (0, 0),
]


@pytest.mark.parametrize(
    ("word", "places"),
    [
        ("go", [4]),
        ("river", [8]),
        ("bank", [11]),
        ("river-bank", [11]),
        ("to a", [6]),
        ("Don't", [3]),
        ("Don", [1]),
        (".", [12]),
        ("bank.", [12]),
        ("riv", []),
        ("ank", []),
        ("don", []),
        ("[CLS]", []),
        ("bank|go", []),
    ],
)
def test_the_last_token_of_a_word(word, places):
    assert last_tokens(word, TEXT, SPANS) == places


def test_each_time_that_a_word_occurs():
    assert last_tokens("a", "a b a", [(0, 1), (2, 3), (4, 5)]) == [0, 2]


def test_a_character_of_several_tokens():
    """As byte-level tokenizers cut it."""
    assert last_tokens("é", "é", [(0, 1), (0, 1)]) == [1]


def test_a_word_that_the_tokenizer_drops():
    assert last_tokens("b", "a b c", [(0, 1), (4, 5)]) == []


def test_a_word_whose_end_the_tokenizer_drops():
    assert last_tokens("banks", "banks c", [(0, 4), (6, 7)]) == [0]
