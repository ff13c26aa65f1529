"""How texts become tokens, whatever a tokenizer.json says of truncation and padding."""

import json

import pytest
import tokenizers
from whole_infer import tokenizer_json

from polyhead_server.engine import tokenizer as engine_tokenizer
from polyhead_server.engine.tokenizer import LongTextError, TextLimits, Tokenizer
from polyhead_server.errors import ModelFileError

TEXT = "the bank of the river"
ANY = 1 << 30
"""More characters and tokens than a text has."""
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


def tokenized(tokenizer, *texts, truncate=False, max_characters=ANY, max_tokens=ANY, num_taken=0):
    """Return the tokens of each text."""
    limits = TextLimits(max_characters, max_tokens, num_taken)
    steps = tokenizer.tokenize(texts, truncate=truncate, limits=limits)
    return [tokens for step in steps for tokens in step.texts]


def words(tokenizer, *, truncate):
    [tokens] = tokenized(tokenizer, TEXT, truncate=truncate)
    return tokens.spellings


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
    [tokens] = tokenized(Tokenizer(tokenizer_json(), 5, "left"), TEXT, truncate=True)
    assert [TEXT[start:end] for start, end in tokens.spans] == ["", "of", "the", "river", ""]


def test_a_length_without_room_for_a_text_is_refused():
    with pytest.raises(ModelFileError, match=r"adds 2 tokens .* made for 2"):
        Tokenizer(tokenizer_json(), 2)
    assert words(Tokenizer(tokenizer_json(), 3), truncate=True) == ["[CLS]", "the", "[SEP]"]


def test_a_template_that_leaves_out_the_second_text_takes_no_pairs():
    document = json.loads(tokenizer_json())
    assert Tokenizer(tokenizer_json()).takes_pairs
    template = document["post_processor"]
    document["post_processor"] = template | {"pair": template["single"]}
    assert not Tokenizer(json.dumps(document)).takes_pairs


class LibraryPanic(BaseException):
    """As tokenizers has it."""


CALLED = ["no_padding", "enable_truncation", "num_special_tokens_to_add", "get_vocab_size"]


@pytest.mark.parametrize("method", [*CALLED, "encode_batch"])
def test_a_panic_of_the_library_is_the_files_fault(monkeypatch, method):
    class Panicking:
        def __init__(self, text):
            self._tokenizer = tokenizers.Tokenizer.from_str(text)

        from_str = classmethod(lambda cls, text: cls(text))

        def __getattr__(self, name):
            def panic(*_, **__):
                raise LibraryPanic

            return panic if name == method else getattr(self._tokenizer, name)

    monkeypatch.setattr(engine_tokenizer, "_Tokenizer", Panicking)
    with pytest.raises(ModelFileError, match="is not a tokenizer"):
        Tokenizer(tokenizer_json(), 5)


def test_a_file_whose_merges_do_not_fit_its_vocabulary_is_refused():
    """The library panics: the prefix that merges leave out is longer than the word."""
    text = json.dumps(
        {
            "version": "1.0",
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "b": 1, "ab": 2},
                "merges": [["a", "b"]],
                "continuing_subword_prefix": "abcdef",
            },
        }
    )
    with pytest.raises(ModelFileError, match="is not a tokenizer"):
        Tokenizer(text)


# --- long texts, and many

MAX_LENGTH = 8
SENTENCE = "the bank of the river "
LONG = SENTENCE * 1000


def tokens_of(text, *, truncate, max_length=MAX_LENGTH, **limits):
    tokenizer = Tokenizer(tokenizer_json(), max_length)
    [tokens] = tokenized(tokenizer, text, truncate=truncate, num_taken=max_length, **limits)
    spans = tokens.spans.tolist()
    return [(text, *span) for text, span in zip(tokens.spellings, spans, strict=True)]


def whole_tokens(text, max_length=0):
    """What the library itself makes of a text."""
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json())
    if max_length:
        tokenizer.enable_truncation(max_length)
    encoding = tokenizer.encode(text)
    return [
        (token, start, end)
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
    ]


def test_a_far_too_long_text_is_cut_as_a_whole_one():
    assert tokens_of(LONG, truncate=True) == whole_tokens(LONG, MAX_LENGTH)


def test_only_the_beginning_of_a_far_too_long_text_is_looked_at():
    tokens = tokens_of(LONG, truncate=False)
    assert MAX_LENGTH < len(tokens) < 200
    assert tokens[:-1] == whole_tokens(LONG)[: len(tokens) - 1]


def test_few_tokens_of_many_characters_are_all_found():
    text = " " * 3000 + "the" + " " * 5000 + "bank"
    for truncate in True, False:
        assert tokens_of(text, truncate=truncate) == whole_tokens(text)


def test_a_model_that_takes_any_length_gets_the_whole_text():
    assert tokens_of(LONG, truncate=False, max_length=0) == whole_tokens(LONG)


def test_tokens_of_a_far_too_long_text_may_be_the_first_ones():
    assert TextLimits(ANY, ANY, MAX_LENGTH).may_leave_out(LONG)
    assert not TextLimits(ANY, ANY, MAX_LENGTH).may_leave_out(SENTENCE * 5)
    assert not TextLimits(ANY, ANY).may_leave_out(LONG)


def test_a_far_too_long_text_is_cut_at_its_beginning():
    tokenizer = Tokenizer(tokenizer_json(), 5, "left")
    [tokens] = tokenized(tokenizer, LONG + "bank", truncate=True)
    assert tokens.spellings == ["[CLS]", "the", "river", "bank", "[SEP]"]


def test_many_texts_are_several_groups():
    texts = [SENTENCE * 20] * 200
    tokenizer = Tokenizer(tokenizer_json(), 0)
    steps = [*tokenizer.tokenize(texts, truncate=False, limits=TextLimits(ANY, ANY))]
    assert len(steps) > 2
    assert sum(len(step.texts) for step in steps) == len(texts)


def test_a_text_with_more_characters_than_are_looked_at_is_refused():
    tokenizer = Tokenizer(tokenizer_json(), 0)
    with pytest.raises(LongTextError) as caught:
        tokenized(tokenizer, "the", LONG, max_characters=len(LONG) - 1)
    assert caught.value.args == ("texts", 1, "characters", len(LONG))
    assert tokens_of(LONG, truncate=False, max_length=0, max_characters=len(LONG))


@pytest.mark.parametrize("truncate", [True, False])
def test_a_text_may_have_any_number_of_characters_if_its_beginning_is_enough(truncate):
    found = tokens_of(LONG, truncate=truncate, max_characters=300)
    assert found[:5] == whole_tokens(LONG)[:5]
    with pytest.raises(LongTextError):  # a word as long as that has one token
        tokens_of("the" * 1000, truncate=truncate, max_characters=300)


def test_the_tokens_of_a_long_text_are_counted_before_they_are_made():
    tokenizer, limits = Tokenizer(tokenizer_json()), TextLimits(ANY, ANY)
    *counting, made = tokenizer.tokenize([LONG], truncate=False, limits=limits)
    num_tokens = len(whole_tokens(LONG))
    assert [step.texts for step in counting] == [[]] * 3  # 22,000 characters, 8,192 at once
    assert sum(step.num_bytes for step in counting) == 400 * (
        num_tokens - 2
    )  # without [CLS], [SEP]
    assert made.num_bytes == 256 * num_tokens


def test_a_text_whose_characters_become_many_tokens_is_refused():
    """The normalizer makes 18 characters of one: an Arabic ligature, with spaces between words."""
    described = json.loads(tokenizer_json()) | {"normalizer": {"type": "NFKC"}}
    tokenizer = Tokenizer(json.dumps(described))
    text = "\ufdfa" * 20_000
    [tokens] = tokenized(tokenizer, text)
    assert tokens.num_tokens > 3 * len(text)
    with pytest.raises(LongTextError) as caught:
        tokenized(tokenizer, "the", text, max_characters=len(text), max_tokens=len(text))
    assert caught.value.args[:3] == ("texts", 1, "tokens")
    assert len(text) < caught.value.number < tokens.num_tokens


def test_a_beginning_is_long_enough_if_parts_divide_words():
    """A word of over 100 characters is one token, and its last letters alone are many."""
    vocabulary = {"[UNK]": 0, "the": 1, "x": 2, "##x": 3}
    described = json.loads(tokenizer_json())
    described["model"] = {
        "type": "WordPiece",
        "vocab": vocabulary,
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    del described["post_processor"]
    tokenizer = Tokenizer(json.dumps(described), MAX_LENGTH)
    text = ("x" * 178 + " the ") * 40  # parts have 128 characters
    whole = ["[UNK]", "the"] * 40
    [cut] = tokenized(tokenizer, text, truncate=True)
    assert cut.spellings == whole[:MAX_LENGTH]
    [first] = tokenized(tokenizer, text, num_taken=MAX_LENGTH)
    assert first.spellings[:MAX_LENGTH] == whole[:MAX_LENGTH]
    assert MAX_LENGTH < first.num_tokens < len(whole)
