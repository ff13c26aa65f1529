"""What the page is given is what the server computes, in all kinds of models."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from explorer_page import ExplorerError

from polyhead import AsyncClient, Weights
from polyhead_explorer.api import maps
from polyhead_explorer.reading.whole.text import read_text, text_stack
from polyhead_models.river_bank import embed, tokenize

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
"""Selected weights are computed in another order than all of them."""
TEXT = "Tom is going to fish at the river bank."
STACKS = {"bert": None, "gpt2": None, "bart": "encoder", "clip": "text"}


def key(model, layer):
    stack = STACKS[model]
    return layer if stack is None else (stack, layer)


@pytest.fixture(params=STACKS)
def model(request):
    return request.param


@pytest.fixture
def whole(client, model):
    """Everything that the server computes of the text, in one call."""
    return client.forward(TEXT, model=model, need_weights=True, need_hidden_states=True)


@pytest.fixture
def whole_bert(client):
    return client.forward(TEXT, model="bert", need_weights=True)


def weights_of(whole, model):
    layers = range(len(whole.attn_weights))
    return [whole.attn_weights[key(model, layer)][0] for layer in layers]


def test_models_are_listed_and_what_cannot_be_shown_says_why(page):
    [(header, _)] = page.ask("models")
    models = {model["name"]: model for model in header["models"]}
    pictured = {"vit", "deit", "dinov2_with_registers"}
    blocks = {"river-bank", "old", "block"}
    read = {"bert", "gpt2", "bart", "t5", "whisper", "decoder-alone", "clip"}
    assert set(models) == read | blocks | pictured
    assert models["block"]["reason"] == "it takes embeddings, not text"
    refused = {name for name, model in models.items() if model["reason"]}
    assert refused == {"block", "whisper", "decoder-alone"}
    assert models["bart"]["title"] == "encoder of 2 layers of 4 heads, decoder of 2 of 4"
    assert [name for name, model in models.items() if model["has_decoder"]] == ["bart", "t5"]
    assert models["bert"]["title"] == "2 layers of 4 heads"
    assert models["bert"]["picture"] is None
    assert models["clip"]["title"].endswith(", text or pictures")
    assert not models["vit"]["takes_text"]


def test_reading_gives_the_tokens_and_the_layers(page, model, whole):
    [(header, _)] = page.ask("reading", model=model, text=TEXT)
    assert [token["spelling"] for token in header["tokens"]] == whole.tokens[0]
    assert header["tokens"][0]["text"] == "[CLS]"
    assert header["tokens"][0]["is_special"]
    assert header["tokens"][1]["text"] == "Tom"  # as in the text, not as in the vocabulary
    assert not header["tokens"][1]["is_special"]
    stack = STACKS[model]
    names = [f"{stack} {n}" if stack else str(n) for n in range(len(header["layers"]))]
    assert [layer["name"] for layer in header["layers"]] == names
    assert not header["is_cut"]
    assert header["keys"] is None  # they are the tokens
    assert header["is_causal"] == (model in ("gpt2", "clip"))


def test_maps_of_short_texts_are_the_weights(page, model, whole):
    frames = page.ask("maps", model=model, text=TEXT, size=48)
    expected = weights_of(whole, model)
    assert [header["layer"] for header, _ in frames] == list(range(len(frames)))
    for (_, arrays), weights in zip(frames, expected, strict=True):
        np.testing.assert_allclose(arrays["maps"], weights, **ROUNDING)
        seen = np.count_nonzero(weights, axis=1)
        np.testing.assert_allclose(arrays["received"], weights.sum(axis=1) / seen, **ROUNDING)


def test_maps_of_long_texts_have_the_largest_weight_of_each_group(page, client):
    text = " ".join([TEXT] * 4)
    weights = client.forward(text, model="bert", need_weights=True).attn_weights[1][0]
    _, (_, arrays) = page.ask("maps", model="bert", text=text, size=5)
    num_tokens = weights.shape[-1]
    bounds = [*(np.arange(5) * num_tokens // 5), num_tokens]
    for row in range(5):
        for column in range(5):
            group = weights[
                :, bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]
            ].max(axis=(1, 2))
            np.testing.assert_allclose(arrays["maps"][:, row, column], group, **ROUNDING)


@pytest.mark.parametrize("renormalise", [False, True])
def test_hidden_tokens_are_left_out_and_the_rest_is_rescaled(page, client, renormalise):
    fields = {"model": "bert", "text": TEXT, "hide": [0, 11], "renormalise": renormalise}
    weights = client.forward(TEXT, model="bert", need_weights=True).attn_weights[1][0]
    expected = weights[:, 1:11, 1:11]
    if renormalise:
        expected = expected / expected.sum(axis=-1, keepdims=True)
    [(header, head)] = page.ask("head", layer=1, head=2, **fields)
    np.testing.assert_allclose(head["weights"], expected[2], **ROUNDING)
    assert header["rows"]["kept"] == list(range(1, 11))
    _, (_, maps) = page.ask("maps", size=48, **fields)
    np.testing.assert_allclose(maps["maps"], expected, **ROUNDING)


def test_a_pair_is_its_weight_in_every_head(page, model, whole):
    frames = page.ask("pair", model=model, text=TEXT, query=9, key=3)
    expected = weights_of(whole, model)
    assert [header["layer"] for header, _ in frames] == list(range(len(expected)))
    for (_, arrays), weights in zip(frames, expected, strict=True):
        np.testing.assert_allclose(arrays["weights"], weights[:, 9, 3], **ROUNDING)


def test_a_pair_among_hidden_tokens_is_rescaled(page, whole_bert):
    fields = {"model": "bert", "text": TEXT, "hide": [0, 11], "renormalise": True}
    _, (_, arrays) = page.ask("pair", query=9, key=3, **fields)
    rows = whole_bert.attn_weights[1][0, :, 9]
    np.testing.assert_allclose(arrays["weights"], rows[:, 3] / rows[:, 1:11].sum(1), **ROUNDING)


def test_hiding_all_tokens_hides_none(page):
    [(header, head)] = page.ask(
        "head", model="bert", text=TEXT, layer=0, head=0, hide=list(range(12))
    )
    assert header["rows"]["kept"] == list(range(12))
    assert head["weights"].shape == (12, 12)


def test_a_row_has_the_stages_that_the_server_computes(page, client, model):
    last = {"clip": 0}.get(model, 1)
    wanted = {"layer": last, "query": 4}
    [(_, row)] = page.ask("row", model=model, text=TEXT, head=3, **wanted)
    [(_, rows)] = page.ask("row", model=model, text=TEXT, **wanted)
    for stage in ("scores", "masked", "weights"):
        selection = Weights(queries=4, stage=stage)
        result = client.forward(TEXT, model=model, need_weights={key(model, last): selection})
        expected = result.attn_weights[key(model, last)][0, :, 0]
        np.testing.assert_allclose(row[stage], expected[3:], **ROUNDING)
        np.testing.assert_allclose(rows[stage], expected, **ROUNDING)
    assert np.isneginf(row["masked"]).any() == (model in ("gpt2", "clip"))


def test_states_are_what_enters_each_layer(page, model, whole):
    frames = page.ask("states", model=model, text=TEXT, tokens=[9, 3])
    assert len(frames) == len(whole.attn_weights) + 1
    for layer, (header, arrays) in enumerate(frames):
        assert header["tokens"] == [3, 9]
        expected = whole.hidden_states[key(model, layer)][0, [3, 9]]
        np.testing.assert_allclose(arrays["states"], expected, **ROUNDING)


def test_a_layers_weights_come_in_float16(page, model, whole):
    expected = weights_of(whole, model)[0]
    [(header, arrays)] = page.ask("weights", model=model, text=TEXT, layer=0)
    assert header["halves"] == ["weights"]
    np.testing.assert_allclose(arrays["weights"], expected, rtol=1e-3, atol=1e-4)


def test_layers_that_are_too_large_to_be_given_at_once_are_refused(page, monkeypatch):
    monkeypatch.setattr(maps, "_MAX_LAYER_BYTES", 1 << 10)
    with pytest.raises(ExplorerError, match="at most 0 MiB can be fetched at once"):
        page.ask("weights", model="bert", text=TEXT, layer=0)


@pytest.mark.parametrize("max_bytes", [0, 1 << 20])
def test_states_that_are_not_kept_are_computed_again(server, client, max_bytes):
    async def read():
        async with AsyncClient(server.target) as connected:
            model = await connected.model("bert")
            stack = text_stack(model)
            reading = await read_text(connected, model, stack, TEXT, max_bytes=max_bytes)
            first_bytes = reading.num_bytes
            weights = await reading.weights(1, Weights(heads=2))
            states = await reading.states(2)
            return weights, states, reading.num_bytes > first_bytes

    weights, states, has_kept = asyncio.run(read())
    whole = client.forward(TEXT, model="bert", need_weights=True, need_hidden_states=2)
    np.testing.assert_allclose(weights[0], whole.attn_weights[1][0, 2], **ROUNDING)
    np.testing.assert_allclose(states, whole.hidden_states[2][0], **ROUNDING)
    assert has_kept == (max_bytes > 0)


def test_the_river_banks_words_are_read(page, client):
    query = embed(tokenize(TEXT))
    result = client.attend(query, model="river-bank", need_weights=True)
    [(_, arrays)] = page.ask("maps", model="river-bank", text=TEXT, size=48)
    np.testing.assert_allclose(arrays["maps"], result.attn_weights[0], **ROUNDING)
    before, after = page.ask("states", model="river-bank", text=TEXT)
    np.testing.assert_array_equal(before[1]["states"], query[0])
    np.testing.assert_allclose(after[1]["states"], query[0] + result.output[0], **ROUNDING)
    [(header, _)] = page.ask("reading", model="river-bank", text=TEXT)
    assert [(token["start"], token["end"]) for token in header["tokens"]][:2] == [(0, 3), (4, 6)]


def test_texts_that_are_too_long_are_cut_and_that_is_said(page):
    text = " ".join([TEXT] * 20)
    [(header, _)] = page.ask("reading", model="bert", text=text)
    assert header["is_cut"]
    assert len(header["tokens"]) == 64


@pytest.mark.parametrize(
    ("name", "fields", "status", "message"),
    [
        ("reading", {"model": "missing"}, 404, "no model 'missing'"),
        ("reading", {"model": "block"}, 400, "block cannot be shown as text: it takes embeddings"),
        ("reading", {"model": "river-bank", "text": "Anna"}, 400, "does not know: anna"),
        ("reading", {"model": "river-bank", "text": " "}, 400, "no word"),
        ("reading", {"model": 7}, 400, "model: expected a text"),
        ("reading", {"text": None}, 400, "text: expected a text"),
        ("reading", {"version": 0}, 400, "version: expected a number from 1"),
        ("head", {"layer": 2, "head": 0}, 400, "layer: expected a number from 0 to 1"),
        ("head", {"layer": 0, "head": True}, 400, "head: expected a number from 0 to 3"),
        ("row", {"layer": 0, "query": -1}, 400, "query: expected a number from 0 to 11"),
        ("pair", {"query": 0, "key": 12}, 400, "key: expected a number from 0 to 11"),
        ("pair", {"query": 0, "key": 1, "hide": [1]}, 400, "other than those of the pair"),
        ("maps", {"size": 1e9}, 400, "size: expected a number from 1 to 64"),
        ("maps", {"size": 8, "hide": 3}, 400, "hide: expected a list of numbers"),
        ("maps", {"size": 8, "renormalise": 1}, 400, "renormalise: expected true or false"),
    ],
)
def test_what_cannot_be_answered_is_said_in_words(page, name, fields, status, message):
    with pytest.raises(ExplorerError, match=message) as refused:
        page.ask(name, **{"model": "bert", "text": TEXT} | fields)
    assert refused.value.status == status
