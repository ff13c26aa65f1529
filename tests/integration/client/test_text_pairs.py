"""Sequences of two texts, and the types of their tokens, of whole models that are served."""

from __future__ import annotations

from html import unescape
from urllib.parse import urlencode

import grpc
import numpy as np
import pytest
import tokenizers
from golden import GOLDEN
from minilm import MINILM, needs_minilm
from older_exports import without_types
from tiny_checkpoint import tiny_checkpoint, words_of

import polyhead
from polyhead import Weights
from polyhead.cli import main
from polyhead.v1 import forward_pb2 as pb
from polyhead.v1.attention_pb2_grpc import AttentionServiceStub
from polyhead.wire.tensors import to_tensor
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model
from polyhead_server.running import running_server

TEXT, PAIR = "Where does Tom fish?", "Tom is going to fish at the river bank."
RECORDED = ("bert", "albert", "electra")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Recorded models with two types, and models of texts with and without types."""
    folder = tmp_path_factory.mktemp("pairs")
    for family in RECORDED:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, folder / "models")
    for family in ("bert", "distilbert", "bart"):
        checkpoint = tiny_checkpoint(folder / "texts", family, words_of([TEXT, PAIR]))
        export_whole_model(Checkpoint.open(checkpoint), f"{family}-texts", folder / "models")
    half = Checkpoint.open(GOLDEN / "bert")
    export_whole_model(half, "half", folder / "models", precision="float16")
    old = export_whole_model(Checkpoint.open(checkpoint.parent / "tiny-bert"), "old", folder)
    graph = old.folder / "model.onnx"
    graph.write_bytes(without_types(graph.read_bytes()))
    (old.folder / "SHA256SUMS").unlink()
    old.folder.parent.rename(folder / "models" / "old")
    if MINILM:
        export_whole_model(Checkpoint.open(MINILM), "minilm", folder / "models")
    return folder / "models"


@pytest.fixture(scope="module")
def server(repository):
    with running_server(repository, threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with polyhead.Client(server.target, timeout=60) as connected:
        yield connected


@pytest.mark.parametrize("model", [*RECORDED, "half"])
def test_types_give_what_transformers_recorded(client, model):
    family = "bert" if model == "half" else model
    recorded = dict(np.load(GOLDEN / family / "token_types.npz"))
    lengths = recorded["attention_mask"].sum(-1)
    result = client.forward(
        token_ids=recorded["input_ids"],
        token_type_ids=recorded["token_type_ids"],
        lengths=lengths,
        model=model,
        need_weights=True,
        need_hidden_states=True,
    )
    within = 5e-3 if model == "half" else 3e-5
    pairs = [(result.output, recorded["last_hidden_state"])]
    pairs += [
        (a, recorded[f"hidden_states.{k}"]) for k, a in list(result.hidden_states.items())[:-1]
    ]
    for actual, expected in pairs:
        for row, length in enumerate(lengths):
            error = np.abs(actual[row, :length] - expected[row, :length]).max()
            assert error < within * np.abs(expected).max()
    for layer, weights in result.attn_weights.items():
        for row, n in enumerate(lengths):
            expected = recorded[f"attentions.{layer}"][row, :, :n, :n]
            np.testing.assert_allclose(weights[row, :, :n, :n], expected, atol=within)
    np.testing.assert_array_equal(result.token_type_ids, recorded["token_type_ids"])


def test_types_change_the_numbers_and_zeros_do_not(client):
    ids = np.array([[2, 5, 3, 6, 3]])
    plain, zeros, types = (
        client.forward(token_ids=ids, token_type_ids=each, model="bert").output
        for each in (None, 0 * ids, np.array([[0, 0, 0, 1, 1]], np.int32))
    )
    np.testing.assert_array_equal(plain, zeros)
    assert (np.abs(types - plain) > 1e-3).any()


def library_encoding(repository, model, text, pair, max_length=None):
    """Return what the tokenizers library itself makes of two texts."""
    tokenizer = tokenizers.Tokenizer.from_file(str(repository / model / "1" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_length:
        tokenizer.enable_truncation(max_length)
    return tokenizer.encode(text, pair)


@pytest.mark.parametrize("model", ["bert-texts", pytest.param("minilm", marks=needs_minilm)])
def test_two_texts_are_one_sequence_with_the_tokenizers_types(client, repository, model):
    expected = library_encoding(repository, model, TEXT, PAIR)
    result = client.forward(TEXT, text_pair=PAIR, model=model)
    assert result.tokens == [expected.tokens]
    assert result.token_ids.tolist() == [expected.ids]
    assert result.token_type_ids.tolist() == [expected.type_ids]
    assert result.token_texts == [[index or 0 for index in expected.sequence_ids]]
    assert (result.texts, result.text_pairs) == ((TEXT,), (PAIR,))
    by_ids = client.forward(
        token_ids=[expected.ids], token_type_ids=[expected.type_ids], model=model
    )
    np.testing.assert_array_equal(result.output, by_ids.output)


def test_the_spans_of_each_token_are_in_its_text(client):
    result = client.forward(TEXT, text_pair=PAIR, model="bert-texts")
    words = [
        (TEXT, PAIR)[text][begin:end].lower()
        for text, (begin, end) in zip(result.token_texts[0], result.token_spans[0], strict=True)
    ]
    assert words[1:5] == ["where", "does", "tom", "fish"]
    assert words[-4:] == ["river", "bank", ".", ""]


def test_each_pair_of_a_batch_is_answered_as_alone(client):
    texts, pairs = ["Tom fish", TEXT, "river"], [PAIR, "bank", "Tom"]
    together = client.forward(texts, text_pair=pairs, model="bert-texts", need_weights={1: True})
    for index, each in enumerate(zip(texts, pairs, strict=True)):
        alone = client.forward(
            each[0], text_pair=each[1], model="bert-texts", need_weights={1: True}
        )
        length = int(alone.lengths[0])
        np.testing.assert_allclose(together.output[index, :length], alone.output[0], atol=1e-5)
        weights = together.attn_weights[1][index, :, :length, :length]
        np.testing.assert_allclose(weights, alone.attn_weights[1][0], atol=1e-5)


def test_words_are_found_in_both_texts(client):
    words = Weights(queries=("Tom", "bank"))
    result = client.forward(TEXT, text_pair=PAIR, model="bert-texts", need_weights={0: words})
    places = [place for place, token in enumerate(result.tokens[0]) if token in ("tom", "bank")]
    assert sorted(result.queries[0][0].tolist()) == places
    assert len(places) == 3
    full = client.forward(TEXT, text_pair=PAIR, model="bert-texts", need_weights={0: True})
    bank = result.tokens[0].index("bank")
    assert full.top("bank", layer=0, k=None) == full.top(bank, layer=0, k=None)
    with pytest.raises(polyhead.InvalidArgumentError, match="Tom"):
        full.top("Tom", layer=0)


@pytest.mark.parametrize(
    ("text", "pair"),
    [(TEXT, PAIR), (PAIR * 20, TEXT), (TEXT, PAIR * 20), (PAIR * 20, PAIR * 30)],
)
def test_the_longer_text_is_cut_first(client, repository, text, pair):
    (stack,) = client.model("bert-texts").whole.stacks
    expected = library_encoding(repository, "bert-texts", text, pair, stack.trained_length)
    result = client.forward(text, text_pair=pair, model="bert-texts", truncate=True)
    assert result.tokens == [expected.tokens]
    assert len(expected.tokens) <= stack.trained_length


def test_a_model_without_types_takes_two_texts(client):
    pair = client.forward(TEXT, text_pair=PAIR, model="distilbert-texts")
    ids = client.forward(token_ids=pair.token_ids, model="distilbert-texts")
    np.testing.assert_array_equal(pair.output, ids.output)
    assert client.model("distilbert-texts").whole.stacks[0].num_token_types == 0


def test_an_encoder_of_a_decoder_takes_two_texts(client):
    result = client.forward(
        TEXT, text_pair=PAIR, decoder_token_ids=[[2, 3]], model="bart-texts", need_weights=True
    )
    assert result.attn_weights["cross", 0].shape[-1] == len(result.tokens[0])


def refused(client, **arguments):
    with pytest.raises(polyhead.InvalidArgumentError) as caught:
        client.forward(**arguments)
    return caught.value


IDS = np.array([[2, 5, 3], [2, 6, 3]])
WRONG = {
    "two for one": (
        {"text": "a", "text_pair": ["a", "b"]},
        "expected a second text for each text, 1; got 2",
    ),
    "none to belong to": ({"text_pair": "a", "token_ids": IDS}, "is given without text"),
    "empty": ({"text": "a", "text_pair": " "}, "is empty; expected a text"),
    "no text": ({"text": "a", "text_pair": 5}, "expected a str, or several in order; got 5"),
    "other lengths": (
        {"token_ids": IDS, "token_type_ids": IDS[:, :2]},
        "expected the shape of token_ids, (2, 3)",
    ),
    "another batch": (
        {"token_ids": IDS, "token_type_ids": IDS[:1]},
        "expected the batch_size of token_ids, 2",
    ),
    "fractions": ({"token_ids": IDS, "token_type_ids": IDS * 0.5}, "integers"),
    "no tokens": ({"text": "a", "token_type_ids": IDS[:1]}, "is given without token_ids"),
    "too large": (
        {"token_ids": IDS, "token_type_ids": [[0, 0, 0], [0, 2, 0]]},
        "[1, 1]: expected types from 0 to 1; got 2",
    ),
    "negative": (
        {"token_ids": IDS, "token_type_ids": [[0, 0, -1], [0, 0, 0]]},
        "[0, 2]: expected types from 0 to 1; got -1",
    ),
}


@pytest.mark.parametrize(("arguments", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(client, arguments, problem):
    assert problem in str(refused(client, model="bert-texts", **arguments))


@pytest.mark.parametrize("model", ["bert", "bert-texts"])
def test_the_server_refuses_second_texts_without_texts(server, model):
    request = pb.ForwardRequest(model=model, token_ids=to_tensor(IDS), text_pairs=["a"])
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        AttentionServiceStub(channel).Forward(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "text_pairs: is set without texts; leave it out"


def test_types_of_padding_are_not_looked_at(client):
    client.forward(
        token_ids=IDS, token_type_ids=[[0, 1, 9], [0, 1, 1]], lengths=[2, 3], model="bert"
    )


def test_a_model_without_types_is_sent_none(client):
    error = refused(client, model="distilbert-texts", token_ids=IDS, token_type_ids=0 * IDS)
    assert "the model has no token types; leave it out" in str(error)


def test_a_model_without_a_tokenizer_makes_no_sequence_of_texts(client):
    assert "exported without a tokenizer.json" in str(
        refused(client, model="bert", text="a", text_pair="b")
    )


def test_two_texts_together_may_be_too_long(client):
    error = refused(client, model="bert-texts", text=PAIR * 20, text_pair=TEXT)
    assert "tokens with its second text, and the model takes" in str(error)


@pytest.mark.parametrize("at", ["text", "text_pair"])
@pytest.mark.parametrize("truncate", [False, True])
def test_a_text_of_too_many_characters_is_named(repository, at, truncate):
    long = "bank " * 50
    text, pair = (long, "bank") if at == "text" else ("bank", long)
    with (
        running_server(repository, threads=1, max_text_characters=100) as server,
        polyhead.Client(server.target) as client,
    ):
        error = refused(client, model="bert-texts", text=text, text_pair=pair, truncate=truncate)
    assert f"{at}[0]" in str(error)
    assert "has 250 characters; expected at most 100" in str(error)


def test_an_older_export_takes_the_first_type_only(client):
    assert client.model("old").whole.stacks[0].num_token_types == 1
    expected = client.forward(token_ids=IDS, model="bert-texts").output
    zeros = client.forward(token_ids=IDS, token_type_ids=0 * IDS, model="old").output
    np.testing.assert_allclose(zeros, expected, atol=1e-6)
    for arguments in (
        {"text": TEXT, "text_pair": PAIR},
        {"token_ids": IDS, "token_type_ids": [[0, 0, 0], [0, 1, 1]]},
    ):
        assert "export the checkpoint again" in str(refused(client, model="old", **arguments))


def test_bertviz_is_told_where_the_second_text_begins(client):
    result = client.forward(TEXT, text_pair=PAIR, model="bert-texts", need_weights=True)
    arguments = result.bertviz()
    assert arguments["tokens"][arguments["sentence_b_start"] - 1] == "[SEP]"
    assert arguments["tokens"][arguments["sentence_b_start"]] == "tom"


def test_a_notebooks_page_has_both_texts(client):
    result = client.forward(TEXT, text_pair=PAIR, model="bert-texts", need_weights=True)
    texts = urlencode({"text": TEXT, "textPair": PAIR})
    assert texts in unescape(result.explore()._repr_html_())


def test_the_command_takes_a_second_text(server, capsys, tmp_path):
    out = tmp_path / "pair.npz"
    command = ["forward", TEXT, "--pair", PAIR, "--model", "bert-texts", "--server", server.target]
    assert main([*command, "--layers", "1", "--queries", "bank", "--out", str(out)]) == 0
    assert "bank" in capsys.readouterr().out
    with np.load(out) as arrays:
        assert arrays["token_type_ids"].max() == 1
