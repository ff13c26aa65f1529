"""A text and its second text are one sequence: what the server computes of both, in one call."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from explorer_page import ExplorerError, explorer
from older_exports import without_types
from tiny_checkpoint import tiny_checkpoint, words_of

from polyhead import Vectors
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
TEXT, PAIR = "Tom is going to fish.", "Tom is at the river bank."
TOKENS = ["[CLS]", *TEXT[:-1].split(), ".", "[SEP]", *PAIR[:-1].split(), ".", "[SEP]"]
TEXTS = [*[0] * 8, *[1] * 7, 0]


@pytest.fixture
def whole(client):
    return client.forward(
        TEXT,
        text_pair=PAIR,
        model="bert",
        need_weights=True,
        need_hidden_states=True,
        head_vectors={1: Vectors(kinds=("query", "key"))},
    )


def ask(page, name, **fields):
    return page.ask(name, **{"model": "bert", "text": TEXT, "text_pair": PAIR} | fields)


def test_tokens_say_of_which_text_they_are(page):
    [(header, _)] = ask(page, "reading")
    tokens = header["tokens"]
    assert [token["text"] for token in tokens] == TOKENS
    assert [token["text_index"] for token in tokens] == TEXTS
    assert [n for n, token in enumerate(tokens) if token["is_special"]] == [0, 7, 15]
    [bank] = [token for token in tokens if token["text"] == "bank"]
    assert PAIR[bank["start"] : bank["end"]] == "bank"
    assert header["keys"] is None
    assert not header["is_cut"]


def test_maps_are_the_weights_of_one_call(page, client, whole):
    for layer, (_, arrays) in enumerate(ask(page, "maps", size=48)):
        np.testing.assert_allclose(arrays["maps"], whole.attn_weights[layer][0], **ROUNDING)
    joined = client.forward(f"{TEXT} {PAIR}", model="bert", need_weights={0: True})
    assert joined.attn_weights[0].shape != whole.attn_weights[0].shape


def test_a_row_and_its_vectors_lead_from_one_text_to_the_other(page, whole):
    bank, fish = TOKENS.index("bank"), TOKENS.index("fish")
    place = {"layer": 1, "head": 2, "query": bank}
    [(_, row)] = ask(page, "row", **place)
    weights = whole.attn_weights[1][0, 2]
    np.testing.assert_allclose(row["weights"][0], weights[bank], **ROUNDING)
    [(_, vectors)] = ask(page, "vectors", **place)
    expected = whole.head_vectors[1]
    np.testing.assert_allclose(vectors["query"], expected.query[0, 2, [bank]], **ROUNDING)
    np.testing.assert_allclose(vectors["key"], expected.key[0, 2], **ROUNDING)
    _, (_, pair) = ask(page, "pair", query=bank, key=fish)
    np.testing.assert_allclose(pair["weights"][2], weights[bank, fish], **ROUNDING)


def test_states_have_the_types_of_both_texts(page, whole):
    for layer, (_, arrays) in enumerate(ask(page, "states")):
        np.testing.assert_allclose(arrays["states"], whole.hidden_states[layer][0], **ROUNDING)


def test_the_path_of_another_text_has_the_same_second_text(page):
    bank = TOKENS.index("bank")
    other = {"other": "Tom is going to deposit money.", "other_query": bank + 1}
    words = {"anchor_x": "river", "anchor_y": "money"}
    _, same = ask(page, "path", query=bank, other=TEXT, other_query=bank, **words)[-1]
    np.testing.assert_allclose(same["other_path"], same["points"][:, bank], atol=1e-6)
    _, arrays = ask(page, "path", query=bank, **words, **other)[-1]
    assert np.abs(arrays["other_path"] - arrays["points"][:, bank]).max() > 1e-4
    [(header, _)] = ask(page, "reading", text=other["other"])
    assert header["tokens"][bank + 1]["text"] == "bank"


def test_a_decoder_attends_to_both_texts_of_its_encoder(page, client):
    ids = client.forward("Tom is going.", model="bart").token_ids
    whole = client.forward(
        TEXT,
        text_pair=PAIR,
        model="bart",
        decoder_token_ids=[[2, *ids[0, :-1]]],
        need_weights={("cross", 1): True},
    )
    fields = {"model": "bart", "attention": "cross", "decoder_text": "Tom is going."}
    [(header, _)] = ask(page, "reading", **fields)
    assert [token["text"] for token in header["keys"]] == TOKENS
    assert [token["text_index"] for token in header["keys"]] == TEXTS
    assert {token["text_index"] for token in header["tokens"]} == {0}
    [(_, arrays)] = ask(page, "head", layer=1, head=3, **fields)
    np.testing.assert_allclose(arrays["weights"], whole.attn_weights["cross", 1][0, 3], **ROUNDING)
    words = {"anchor_x": "river", "anchor_y": "money", "query": 2}
    assert ask(page, "path", **fields, **words)[-1][1]["points"].shape == (3, 6, 2)


@pytest.mark.parametrize("is_second_long", [True, False])
def test_texts_that_are_too_long_together_are_cut_and_that_is_said(page, is_second_long):
    long = " ".join([PAIR] * 12)
    texts = {"text_pair": long} if is_second_long else {"text": long}
    [(header, _)] = ask(page, "reading", **texts)
    assert header["is_cut"]
    assert len(header["tokens"]) == 64
    assert {token["text_index"] for token in header["tokens"]} == {0, 1}


def test_models_that_read_in_both_directions_are_offered_a_second_text(page):
    [(header, _)] = page.ask("models")
    offered = {model["name"] for model in header["models"] if model["takes_pairs"]}
    assert offered == {"bert", "bart", "t5"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_pair": " "}, r"text_pair\[0\]: is empty; expected a text"),
        ({"text_pair": 1}, "text_pair: expected a text"),
        ({"model": "river-bank"}, "takes one text: leave the second text out"),
    ],
)
def test_a_second_text_that_cannot_be_is_refused(page, fields, message):
    with pytest.raises(ExplorerError, match=message) as refused:
        ask(page, "reading", **fields)
    assert refused.value.status == 400


def test_a_picture_has_no_second_text(page):
    form = {"height": 30, "width": 30, "pixels": base64.b64encode(bytes(2700)).decode()}
    [(uploaded, _)] = page.ask("upload", **form)
    with pytest.raises(ExplorerError, match="text_pair: expected null, because a picture"):
        ask(page, "reading", model="vit", image=uploaded["image"])


def test_a_model_that_cannot_tell_texts_apart_says_what_to_do(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path, "bert", words_of([TEXT, PAIR]))
    exported = export_whole_model(Checkpoint.open(checkpoint), "older", tmp_path / "models")
    graph = exported.folder / "model.onnx"
    graph.write_bytes(without_types(graph.read_bytes()))
    (exported.folder / "SHA256SUMS").unlink()
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    tokenizer["post_processor"]["pair"] = tokenizer["post_processor"]["single"]
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    export_whole_model(Checkpoint.open(checkpoint), "of-one", tmp_path / "models")
    with running_server(tmp_path / "models", threads=1) as server, explorer(server.target) as page:
        with pytest.raises(ExplorerError, match="export the checkpoint again"):
            ask(page, "reading", model="older")
        with pytest.raises(ExplorerError, match="no sequence of two texts; send one text"):
            ask(page, "reading", model="of-one")
        assert page.ask("reading", model="older", text=TEXT)
