"""The three attentions of an encoder-decoder are what the server computes, in one call each."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_page import ExplorerError

from polyhead import Vectors, Weights

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
TEXT = "Tom is going to fish at the river bank."
WRITTEN = "Tom is going to deposit money."
STARTS = {"bart": "[CLS]", "t5": "<start>"}
"""What the decoder's tokens begin with: id 2, as BART's config.json states, and T5's padding."""
ATTENTIONS = ("decoder", "cross")


@pytest.fixture(params=STARTS)
def model(request):
    return request.param


def token_ids(client, model):
    """What transformers makes of labels: shifted right behind a start token."""
    ids = client.forward(WRITTEN, model=model).token_ids
    return [[{"bart": 2, "t5": 0}[model], *ids[0, :-1]]]


@pytest.fixture
def whole(client, model):
    """Everything that the server computes of the encoder's and the decoder's text."""
    return client.forward(
        TEXT,
        model=model,
        decoder_token_ids=token_ids(client, model),
        need_weights=True,
        need_hidden_states=True,
        head_vectors={("cross", 1): Vectors(kinds=("query", "key", "value", "context"))},
    )


def ask(page, name, model, attention, **fields):
    both = {"text": TEXT, "decoder_text": WRITTEN, "attention": attention}
    return page.ask(name, model=model, **both, **fields)


def test_the_decoders_text_is_shifted_right_behind_a_start_token(page, model):
    [(own, _)] = ask(page, "reading", model, "decoder")
    [(cross, _)] = ask(page, "reading", model, "cross")
    [(encoder, _)] = page.ask("reading", model=model, text=TEXT)
    words = WRITTEN.removesuffix(".").split()
    expected = [STARTS[model], "[CLS]", *words, "."]
    assert [token["text"] for token in own["tokens"]] == expected
    assert [token["is_special"] for token in own["tokens"]] == [True, True, *[False] * 7]
    assert own["keys"] is None
    assert own["is_causal"]
    assert cross["tokens"] == own["tokens"]
    assert cross["keys"] == encoder["tokens"]
    assert not cross["is_causal"]
    assert [layer["name"] for layer in own["layers"]] == ["decoder 0", "decoder 1"]
    assert [layer["name"] for layer in cross["layers"]] == ["cross 0", "cross 1"]


def test_models_say_what_their_decoders_begin_with(client):
    starts = {
        name: [stack.start_token_id for stack in client.model(name).whole.stacks]
        for name in ("bart", "t5", "whisper", "bert", "gpt2")
    }
    assert starts == {
        "bart": [None, 2], "t5": [None, 0], "whisper": [None, 1], "bert": [None], "gpt2": [None]
    }  # fmt: skip


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_maps_are_the_weights_of_one_call(page, model, whole, attention):
    frames = ask(page, "maps", model, attention, size=48)
    for layer, (_, arrays) in enumerate(frames):
        weights = whole.attn_weights[attention, layer][0]
        np.testing.assert_allclose(arrays["maps"], weights, **ROUNDING)
    assert len(frames) == 2
    shape = whole.attn_weights["cross", 0].shape
    assert shape[2:] == (9, 12)  # tokens of the decoder, tokens of the encoder
    if attention == "cross":
        last = whole.attn_weights["cross", 1][0]
        np.testing.assert_allclose(arrays["received"], last.mean(axis=1), **ROUNDING)
        np.testing.assert_allclose(arrays["measures"], [last[:, :, 0].mean(1)], **ROUNDING)


def test_tokens_and_keys_are_hidden_apart(page, model, whole):
    hidden = {"hide": [0, 1], "hide_keys": [0, 11], "renormalise": True}
    [(header, arrays)] = ask(page, "head", model, "cross", layer=1, head=2, **hidden)
    expected = whole.attn_weights["cross", 1][0, 2, 2:, 1:11]
    expected = expected / expected.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(arrays["weights"], expected, **ROUNDING)
    assert header["rows"]["kept"] == list(range(2, 9))
    assert header["keys"]["kept"] == list(range(1, 11))
    _, (_, pair) = ask(page, "pair", model, "cross", query=3, key=10, **hidden)
    np.testing.assert_allclose(pair["weights"][2], expected[1, 9], **ROUNDING)
    with pytest.raises(ExplorerError, match="other than those of the pair"):
        ask(page, "pair", model, "cross", query=3, key=11, **hidden)
    with pytest.raises(ExplorerError, match="key: expected a number from 0 to 11"):
        ask(page, "pair", model, "cross", query=3, key=12)


def test_a_row_of_cross_attention_has_its_stages_and_vectors(page, client, model, whole):
    place = {"layer": 1, "head": 3, "query": 4}
    [(header, row)] = ask(page, "row", model, "cross", **place)
    assert not header["spec"]["is_causal"]
    assert header["spec"]["relative_buckets"] == 0  # T5's are those of self-attention
    np.testing.assert_allclose(
        row["weights"][0], whole.attn_weights["cross", 1][0, 3, 4], **ROUNDING
    )
    [(_, vectors)] = ask(page, "vectors", model, "cross", **place)
    expected = whole.head_vectors["cross", 1]
    np.testing.assert_allclose(vectors["query"], expected.query[0, 3, [4]], **ROUNDING)
    np.testing.assert_allclose(vectors["key"], expected.key[0, 3], **ROUNDING)
    np.testing.assert_allclose(vectors["context"], expected.context[0, 3, [4]], **ROUNDING)
    np.testing.assert_allclose(
        vectors["products"] * header["spec"]["scale"], row["scores"][0], **ROUNDING
    )
    states = whole.hidden_states["decoder", 1][0, :, :64]
    np.testing.assert_allclose(vectors["entering"], states, **ROUNDING)
    wanted = {("cross", 1): Weights(heads=3, queries=4, stage="masked")}
    masked = client.forward(
        TEXT, model=model, decoder_token_ids=token_ids(client, model), need_weights=wanted
    )
    np.testing.assert_allclose(
        row["masked"][0], masked.attn_weights["cross", 1][0, 0, 0], **ROUNDING
    )


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_states_and_weights_are_those_of_the_decoder(page, model, whole, attention):
    frames = ask(page, "states", model, attention)
    for layer, (_, arrays) in enumerate(frames):
        np.testing.assert_allclose(
            arrays["states"], whole.hidden_states["decoder", layer][0], **ROUNDING
        )
    [(_, arrays)] = ask(page, "weights", model, attention, layer=0)
    expected = whole.attn_weights[attention, 0][0]
    np.testing.assert_allclose(arrays["weights"], expected, rtol=1e-3, atol=1e-4)


def test_a_path_has_the_other_texts_and_words_that_the_decoder_reads(page):
    words = {"anchor_x": "river", "anchor_y": "money", "other": "money", "other_query": 3}
    header, arrays = ask(page, "path", "bart", "cross", query=3, **words)[-1]
    assert arrays["points"].shape == (3, 9, 2)
    assert arrays["other_path"].shape == (3, 2)
    # the decoder's token is the same before its first layer, and then it sees another text
    np.testing.assert_allclose(arrays["other_path"][0], arrays["points"][0, 3], atol=1e-6)
    assert np.abs(arrays["other_path"][2] - arrays["points"][2, 3]).max() > 1e-4
    assert header["tokens"] == list(range(9))


def test_a_decoders_text_that_is_too_long_is_cut_and_that_is_said(page):
    long = " ".join([WRITTEN] * 12)
    fields = {"model": "bart", "text": TEXT, "attention": "cross", "decoder_text": long}
    [(header, _)] = page.ask("reading", **fields)
    assert header["is_cut"]
    assert len(header["tokens"]) == 64
    assert len(page.ask("maps", size=8, **fields)) == 2


def test_what_has_no_encoder_of_texts_says_so(page):
    [(header, _)] = page.ask("models")
    models = {model["name"]: model for model in header["models"]}
    assert models["whisper"]["reason"] == "its encoder takes input_features, not text"
    alone = "its decoder needs an encoder's output, and it has no encoder"
    assert models["decoder-alone"]["reason"] == alone
    assert not models["whisper"]["has_decoder"] | models["decoder-alone"]["has_decoder"]


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"model": "bert"}, 400, "bert has no decoder beside an encoder of texts"),
        ({"model": "gpt2"}, 400, "gpt2 has no decoder beside an encoder of texts"),
        ({"attention": "self"}, 400, "attention: expected one of encoder, decoder, cross"),
        ({"decoder_text": None}, 400, "decoder_text: expected a text"),
        ({"decoder_text": " "}, 400, "is empty; expected a text"),
        ({"image": "a"}, 400, "image: expected null|does not have the picture"),
    ],
)
def test_what_has_no_decoder_is_refused(page, fields, status, message):
    given = {"model": "bart", "text": TEXT, "decoder_text": WRITTEN, "attention": "cross"}
    with pytest.raises(ExplorerError, match=message) as refused:
        page.ask("reading", **given | fields)
    assert refused.value.status == status
