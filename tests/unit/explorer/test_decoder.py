"""The decoder's text becomes tokens as transformers makes decoder_input_ids of labels."""

from __future__ import annotations

import pytest

from polyhead_explorer.reading.reading import Token
from polyhead_explorer.reading.whole.decoder import shift_right

BEGIN, END, LANGUAGE = (Token(name, name, 0, 0) for name in ("<s>", "</s>", "ro_RO"))
WORD = Token("Bank", "Bank", 0, 4)


@pytest.mark.parametrize(
    ("ids", "tokens", "start_token_id", "expected_ids", "expected_names"),
    [
        # BART: the token that ends a text
        ([0, 9, 2], (BEGIN, WORD, END), 2, [2, 0, 9], ["</s>", "<s>", "Bank"]),
        # T5: a token that no text has
        ([9, 1], (WORD, END), 0, [0, 9], ["<start>", "Bank"]),
        # mBART, which states none: the language
        ([9, 2, 7], (WORD, END, LANGUAGE), None, [7, 9, 2], ["ro_RO", "Bank", "</s>"]),
        # a text of one token
        ([9], (WORD,), 9, [9], ["Bank"]),
    ],
)
def test_tokens_are_shifted_right(ids, tokens, start_token_id, expected_ids, expected_names):
    shifted, names = shift_right(ids, tokens, start_token_id)
    assert shifted == expected_ids
    assert [token.text for token in names] == expected_names
    assert names[0].is_special  # even if the text has the same token
