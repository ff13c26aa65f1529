"""The river bank: properties of the word space and of the heads, in the float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead_models import builtin
from polyhead_models.checksums import check_files
from polyhead_models.graph import build_model
from polyhead_models.reference.attention import attend
from polyhead_models.river_bank import (
    DIMENSIONS,
    HEADS,
    MODEL_NAME,
    TOWN_GROUP,
    WATER_GROUP,
    UnknownWordError,
    embed,
    river_bank_block,
    tokenize,
    vocabulary,
)

FISHING = "Tom is going to fish at the river bank."
BANKING = "Tom is going to the bank to deposit money."
ABOUT_WATER = [
    FISHING,
    "The bank of the river",
    "At the bank of the river Tom is going to fish.",
    "bank the river fish at to going is tom",
    "She is going to swim by the bank.",
    "The fisherman sat at the bank.",
    "The boat was by the bank of the lake.",
    "Tom waits at the bank, the fish is in the water.",
]
ABOUT_MONEY = [
    BANKING,
    "A bank gave Tom a loan",
    "To deposit money, Tom is going to the bank.",
    "money deposit to bank the to going is tom",
    "He is going to pay the loan at the bank.",
    "The account is at the bank.",
    "She waits in the bank and is going to deposit cash from the restaurant.",
]
GRAMMAR = {"to", "at", "by", "in", "from", "is", "was", "of", "the", "a", "and", ",", "."}


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def vectors(*words):
    return embed(words)[0].astype(np.float64)


def centroid(group):
    return vectors(*group).mean(axis=0)


def run(sentence):
    """Return tokens, embeddings, embeddings plus the block's output, and attention weights."""
    tokens = tokenize(sentence)
    embeddings = embed(tokens)
    output, attn_weights = attend(river_bank_block(), embeddings)
    return tokens, embeddings[0], embeddings[0] + output[0], attn_weights[0]


def others_by_weight(tokens, row, word):
    """Sort the other words of a sentence by the attention that a word pays them, highest first."""
    ranked = sorted(zip(row, tokens, strict=True), reverse=True)
    return [token for _, token in ranked if token != word]


def test_river_is_the_vector_of_the_article():
    expected = np.array([[[-0.9, 0.9, -0.2, 0.4, 0.2, 0.6]]], dtype=np.float32)
    assert embed(["River"]).dtype == np.float32
    np.testing.assert_array_equal(embed(["River"]), expected)


def test_words_of_a_group_are_close_and_the_groups_are_apart():
    for group in (WATER_GROUP, TOWN_GROUP):
        for one in vectors(*group):
            assert all(cosine(one, other) > 0.85 for other in vectors(*group))
    for wet in vectors(*WATER_GROUP):
        assert all(cosine(wet, dry) < 0.0 for dry in vectors(*TOWN_GROUP))


def test_bank_lies_between_the_groups():
    (bank,) = vectors("bank")
    to_water, to_town = cosine(bank, centroid(WATER_GROUP)), cosine(bank, centroid(TOWN_GROUP))
    assert 0.45 < to_water < 0.65
    assert abs(to_water - to_town) < 0.1


def test_every_word_is_unique_and_has_a_valid_vector():
    words = vocabulary()
    assert len(words) == len(set(words)) >= 30
    assert embed(words).shape == (1, len(words), len(DIMENSIONS))
    assert np.abs(embed(words)).max() <= 1.0
    assert all(np.linalg.norm(vector) > 0.5 for vector in vectors(*words))


def test_tokenize_splits_words_and_punctuation_in_lower_case():
    assert tokenize(FISHING) == (
        *("tom", "is", "going", "to", "fish", "at", "the", "river", "bank", "."),
    )
    assert tokenize("  Bank,River  ") == ("bank", ",", "river")
    assert tokenize(" ") == ()


def test_embed_ignores_case_and_keeps_the_order():
    np.testing.assert_array_equal(embed(["BANK", "PostOffice"]), embed(["bank", "postoffice"]))
    np.testing.assert_array_equal(embed(["fish", "bank"])[:, ::-1], embed(["bank", "fish"]))


def test_embed_names_unknown_words_once_and_the_known_ones():
    with pytest.raises(UnknownWordError) as raised:
        embed(["the", "Whale", "swim", "Whale", "jazz"])
    message = str(raised.value)
    assert "does not know: Whale, jazz. It knows: " in message
    assert set(vocabulary()) <= set(message.split())


def test_embed_refuses_an_empty_sentence():
    with pytest.raises(ValueError, match="no word"):
        embed([])


def test_callers_cannot_change_the_vocabulary():
    embed(["river"])[:] = 0.0
    assert embed(["river"]).any()


def test_the_block_has_two_heads_of_width_three():
    config = river_bank_block().config
    assert (config.embed_dim, config.num_heads, config.head_dim) == (6, len(HEADS), 3)


def test_bank_attends_to_river_and_fish_before_all_other_words():
    tokens, _, _, (meaning, verb_and_noun) = run(FISHING)
    bank = tokens.index("bank")
    assert others_by_weight(tokens, meaning[bank], "bank")[:2] == ["river", "fish"]
    assert meaning[bank, tokens.index("river")] + meaning[bank, tokens.index("fish")] > 0.8
    both = (meaning + verb_and_noun) / 2
    assert set(others_by_weight(tokens, both[bank], "bank")[:2]) == {"river", "fish"}


def test_bank_attends_to_money_and_deposit_before_all_other_words():
    tokens, _, _, (meaning, verb_and_noun) = run(BANKING)
    bank = tokens.index("bank")
    assert others_by_weight(tokens, meaning[bank], "bank")[:2] == ["money", "deposit"]
    assert meaning[bank, tokens.index("money")] + meaning[bank, tokens.index("deposit")] > 0.8
    both = (meaning + verb_and_noun) / 2
    assert set(others_by_weight(tokens, both[bank], "bank")[:2]) == {"money", "deposit"}


@pytest.mark.parametrize(
    ("sentence", "word", "looks_at"),
    [
        (FISHING, "going", "bank"),
        (FISHING, "fish", "bank"),
        (FISHING, "bank", "fish"),
        (FISHING, "river", "fish"),
        (BANKING, "going", "bank"),
        (BANKING, "deposit", "money"),
        (BANKING, "money", "deposit"),
        ("A bank gave Tom a loan", "gave", "loan"),
        ("A bank gave Tom a loan", "loan", "gave"),
        ("He is going to pay the loan at the bank.", "pay", "loan"),
    ],
)
def test_the_second_head_joins_verbs_and_nouns(sentence, word, looks_at):
    tokens, _, _, (_, verb_and_noun) = run(sentence)
    row = verb_and_noun[tokens.index(word)]
    assert tokens[row.argmax()] == looks_at
    assert row.max() > 0.4


@pytest.mark.parametrize("sentence", ABOUT_WATER)
def test_water_words_move_bank_to_the_water(sentence):
    tokens, before, after, _ = run(sentence)
    bank = tokens.index("bank")
    water, town = centroid(WATER_GROUP), centroid(TOWN_GROUP)
    assert cosine(after[bank], water) > cosine(before[bank], water) + 0.3
    assert cosine(after[bank], town) < cosine(before[bank], town) - 0.3


@pytest.mark.parametrize("sentence", ABOUT_MONEY)
def test_money_words_move_bank_to_the_town(sentence):
    tokens, before, after, _ = run(sentence)
    bank = tokens.index("bank")
    water, town = centroid(WATER_GROUP), centroid(TOWN_GROUP)
    assert cosine(after[bank], town) > cosine(before[bank], town) + 0.1
    assert cosine(after[bank], water) < cosine(before[bank], water) - 0.3


@pytest.mark.parametrize("sentence", ["Tom is at the bank.", "bank", "He was by a bank and sat."])
def test_an_ambiguous_sentence_leaves_bank_undecided(sentence):
    tokens, before, after, _ = run(sentence)
    bank = tokens.index("bank")
    assert cosine(before[bank], after[bank]) > 0.9
    to_water = cosine(after[bank], centroid(WATER_GROUP))
    to_town = cosine(after[bank], centroid(TOWN_GROUP))
    assert abs(to_water - to_town) < 0.2


@pytest.mark.parametrize("sentence", ABOUT_WATER + ABOUT_MONEY)
def test_unambiguous_words_hardly_move(sentence):
    tokens, before, after, _ = run(sentence)
    for token, old, new in zip(tokens, before, after, strict=True):
        if token in {"bank", "tom", "he", "she"}:
            continue
        assert cosine(old, new) > 0.9, token


@pytest.mark.parametrize("sentence", ABOUT_WATER + ABOUT_MONEY)
def test_words_of_water_and_money_ignore_grammar(sentence):
    tokens, _, _, (meaning, _) = run(sentence)
    is_grammar = np.array([token in GRAMMAR for token in tokens])
    meaningful = [
        i for i, vector in enumerate(vectors(*tokens)) if np.abs(vector[1:3]).max() > 0.25
    ]
    assert meaningful
    assert meaning[meaningful][:, is_grammar].sum(axis=1).max() < 0.01


def test_word_order_has_no_effect():
    tokens, _, after, attn_weights = run(FISHING)
    _, _, after_reversed, reversed_weights = run(" ".join(reversed(tokens)))
    np.testing.assert_allclose(after_reversed, after[::-1], atol=1e-12)
    np.testing.assert_allclose(reversed_weights, attn_weights[:, ::-1, ::-1], atol=1e-12)


def test_the_committed_model_equals_a_new_build():
    folder = builtin.repository() / MODEL_NAME / "1"
    file = folder / "model.onnx"
    assert file.read_bytes() == build_model(river_bank_block()), (
        "the built-in model is stale; run python -m polyhead_models.river_bank"
    )
    assert check_files(folder, ["model.onnx"])
