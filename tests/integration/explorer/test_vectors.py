"""One row of a head in vectors: what the page shows is what calls give."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_page import ExplorerError

from polyhead import Vectors
from polyhead_models.river_bank import embed, river_bank_block, tokenize

TEXT = "Tom is going to fish at the river bank."
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
BANK = 9
ALL = Vectors(kinds=("query", "key", "value", "context"))


def ask(page, model, query=BANK, head=1, layer=0):
    [answer] = page.ask("vectors", model=model, text=TEXT, layer=layer, head=head, query=query)
    return answer


@pytest.mark.parametrize("model", ["bert", "gpt2", "bart"])
def test_vectors_are_those_of_a_call(page, client, model):
    header, shown = ask(page, model)
    key = ("encoder", 0) if model == "bart" else 0
    result = client.forward(TEXT, model=model, head_vectors={key: ALL}, need_hidden_states=key)
    expected = result.head_vectors[key]
    np.testing.assert_allclose(shown["query"], expected.query[0, 1, [BANK]], **ROUNDING)
    np.testing.assert_allclose(shown["key"], expected.key[0, 1], **ROUNDING)
    np.testing.assert_allclose(shown["context"], expected.context[0, 1, [BANK]], **ROUNDING)
    lengths = np.linalg.norm(expected.value[0, 1], axis=1)
    [(_, row)] = page.ask("row", model=model, text=TEXT, layer=0, head=1, query=BANK)
    expected_lengths = lengths * row["weights"][0]
    np.testing.assert_allclose(shown["weighted_length"], expected_lengths, **ROUNDING)
    length = np.linalg.norm(expected.context[0, :, BANK])
    np.testing.assert_allclose(shown["all_contexts_length"], [length], **ROUNDING)
    np.testing.assert_allclose(shown["entering"], result.hidden_states[key][0, :, :64], **ROUNDING)
    assert header["sizes"]["query"] == header["sizes"]["context"] == 16
    assert header["sizes"]["all_contexts"] == 64
    assert header["reason"] == ""


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_terms_sum_to_the_scores_and_weighted_values_to_the_context(page, model):
    _, vectors = ask(page, model)
    [(header, row)] = page.ask("row", model=model, text=TEXT, layer=0, head=1, query=BANK)
    scores = vectors["products"] * header["spec"]["scale"]
    np.testing.assert_allclose(scores, row["scores"][0], **ROUNDING)
    np.testing.assert_allclose(vectors["terms"].sum(axis=1), vectors["products"], **ROUNDING)
    np.testing.assert_allclose(vectors["weighted"].sum(axis=0), vectors["context"][0], **ROUNDING)


def test_the_river_banks_vectors_are_what_its_matrices_make_of_its_words(page, client):
    header, vectors = ask(page, "river-bank", query=8, head=0)
    block = river_bank_block()
    words = embed(tokenize(TEXT))
    expected = words[0] @ block.weights["k_proj.weight"][: block.config.head_dim].T
    np.testing.assert_allclose(vectors["key"], expected, **ROUNDING)
    output = client.attend(words, model="river-bank").output[0, 8]
    np.testing.assert_allclose(vectors["attended"][0], output, **ROUNDING)
    assert header["dimensions"][0] == "town"
    assert header["sizes"]["attended"] == 6


def test_a_model_of_an_older_export_says_that_it_has_to_be_exported_again(page):
    header, vectors = ask(page, "old", query=8, head=0)
    assert "Export it again" in header["reason"]
    assert vectors.keys() == {"entering", "entering_length"}


def test_a_row_says_which_mathematics_it_is_of(page):
    [(header, _)] = page.ask("row", model="gpt2", text=TEXT, layer=0, head=1, query=3)
    assert header["spec"]["scale"] == pytest.approx(0.25)
    assert header["spec"]["is_causal"]


def test_a_token_that_is_not_there_is_refused(page):
    with pytest.raises(ExplorerError, match="query: expected a number from 0 to 11"):
        ask(page, "bert", query=12)
