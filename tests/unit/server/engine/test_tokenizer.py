"""How texts become tokens, whatever a tokenizer.json says of truncation and padding."""

import json

import pytest
from whole_infer import tokenizer_json

from polyhead_server.engine.tokenizer import Tokenizer
from polyhead_server.errors import ModelFileError

TEXT = "the bank of the river"
STORED = {
    "truncation": {
        "direction": "Left",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    },
    "padding": {
        "strategy": {"Fixed": 16},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
}


def words(tokenizer, *, truncate):
    [tokens] = tokenizer.tokenize([TEXT], truncate=truncate)
    return [token.text for token in tokens]


@pytest.mark.parametrize("stored", [{}, STORED])
def test_stored_truncation_and_padding_are_not_used(stored):
    text = json.dumps(json.loads(tokenizer_json()) | stored)
    whole = ["[CLS]", *TEXT.split(), "[SEP]"]
    assert words(Tokenizer(text, 5), truncate=False) == whole
    assert words(Tokenizer(text), truncate=True) == whole
    assert words(Tokenizer(text, 5), truncate=True) == ["[CLS]", "the", "bank", "of", "[SEP]"]


def test_texts_may_be_cut_at_their_beginning():
    tokenizer = Tokenizer(tokenizer_json(), 5, "left")
    assert words(tokenizer, truncate=True) == ["[CLS]", "of", "the", "river", "[SEP]"]


def test_cut_texts_keep_their_spans():
    [tokens] = Tokenizer(tokenizer_json(), 5, "left").tokenize([TEXT], truncate=True)
    assert [TEXT[token.start : token.end] for token in tokens] == ["", "of", "the", "river", ""]


def test_a_length_without_room_for_a_text_is_refused():
    with pytest.raises(ModelFileError, match=r"adds 2 tokens .* made for 2"):
        Tokenizer(tokenizer_json(), 2)
    assert words(Tokenizer(tokenizer_json(), 3), truncate=True) == ["[CLS]", "the", "[SEP]"]
