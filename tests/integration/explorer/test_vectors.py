"""A head's values and output are had from the server, where nothing stands before the attention."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_page import ExplorerError

from polyhead_models.river_bank import embed, river_bank_block, tokenize

TEXT = "Tom is going to fish at the river bank."
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
BANK = 9


def ask(page, model, query=BANK, head=1, layer=0):
    [answer] = page.ask("vectors", model=model, text=TEXT, layer=layer, head=head, query=query)
    return answer


def heads_of(page, model, query):
    return [ask(page, model, query, head)[1] for head in range(4)]


@pytest.mark.parametrize("model", ["bert", "bart"])
def test_weighted_values_sum_to_the_heads_output_and_heads_to_the_blocks(page, client, model):
    heads = heads_of(page, model, BANK)
    for head in heads:
        np.testing.assert_allclose(head["weighted"].sum(axis=0), head["output"][0], **ROUNDING)
    key = 0 if model == "bert" else ("encoder", 0)
    states = client.forward(TEXT, model=model, need_hidden_states=key).hidden_states[key]
    output = client.attend(states, model=model, layer=key).output[0, BANK]
    together = sum(head["output"][0] for head in heads)
    np.testing.assert_allclose(together, heads[0]["all_heads"][0], **ROUNDING)
    np.testing.assert_allclose(together + heads[0]["bias"][0], output, **ROUNDING)
    np.testing.assert_allclose(heads[0]["entering"], states[0, :, :64], **ROUNDING)


def test_values_are_weighted_by_the_row(page):
    _, vectors = ask(page, "bert")
    [(_, row)] = page.ask("row", model="bert", text=TEXT, layer=0, head=1, query=BANK)
    expected = vectors["values"] * row["weights"].T
    np.testing.assert_allclose(vectors["weighted"], expected, **ROUNDING)
    lengths = np.linalg.norm(vectors["values"], axis=1)
    np.testing.assert_allclose(vectors["values_length"], lengths, **ROUNDING)


def test_the_river_banks_values_are_what_its_matrices_make_of_its_words(page):
    header, vectors = ask(page, "river-bank", query=8, head=0)
    block = river_bank_block()
    words = embed(tokenize(TEXT))[0]
    width = block.config.v_head_dim
    value = words @ block.weights["v_proj.weight"][:width].T
    expected = value @ block.weights["out_proj.weight"][:, :width].T
    np.testing.assert_allclose(vectors["values"], expected, **ROUNDING)
    assert header["dimensions"][0] == "town"
    assert header["width"] == 6


@pytest.mark.parametrize("model", ["gpt2", "clip"])
def test_models_with_a_norm_before_the_attention_say_why_they_have_none(page, model):
    header, vectors = ask(page, model, query=3)
    assert "a norm stands before the attention" in header["reason"]
    assert vectors.keys() == {"entering"}


def test_a_row_says_which_mathematics_it_is_of(page):
    [(header, _)] = page.ask("row", model="gpt2", text=TEXT, layer=0, head=1, query=3)
    assert header["spec"]["scale"] == pytest.approx(0.25)
    assert header["spec"]["is_causal"]


def test_a_token_that_is_not_there_is_refused(page):
    with pytest.raises(ExplorerError, match="query: expected a number from 0 to 11"):
        ask(page, "bert", query=12)
