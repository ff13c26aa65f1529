"""Vectors of heads from a real server: as the reference has them, and as transformers had them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from configs import arguments_of
from golden import GOLDEN
from older_exports import without_vectors
from tiny_checkpoint import tiny_checkpoint, words_of

import polyhead
from polyhead import Vectors, Weights
from polyhead.cli import main
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.config import AttentionConfig
from polyhead_models.export.whole import export_whole_model
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages
from polyhead_models.store import write_model
from polyhead_server.running import running_server

KINDS = ("query", "key", "value", "context")
ALL = Vectors(kinds=KINDS)
ERRORS = {"float16": 4e-3, "int8": 2e-3}
"""Largest errors relative to the largest number, where 2e-5 is too small."""
RECORDED = ("bert", "gpt2", "llama", "qwen3", "gemma2", "t5")


def embeddings(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QUERY = embeddings(2, 9, 16)


def assert_near(actual, expected, error=2e-5):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=error * np.abs(expected).max())


def same(result, expected):
    for kind in KINDS:
        array, other = getattr(result, kind), getattr(expected, kind)
        assert (array is None) == (other is None)
        if array is not None:
            np.testing.assert_allclose(array, other, rtol=0, atol=1e-6)


def test_vectors_of_every_kind_of_block_equal_the_references(client, blocks):
    for name, block in blocks.items():
        arguments = arguments_of(block.config, seed=5, q_seq_len=6, kv_seq_len=8, mask="bool")
        stages = attend_stages(block, **arguments)
        result = client.attend(**arguments, model=name, head_vectors=ALL, need_output=False)
        for kind in KINDS:
            array = getattr(result.head_vectors, kind)
            assert_near(array, getattr(stages, kind), ERRORS.get(name, 2e-5))
        assert result.output is None


def test_products_of_vectors_are_the_scores_and_sums_the_contexts(client, blocks):
    for name, block in blocks.items():
        config = block.config
        if config.softcap or name in ERRORS:
            continue
        query = embeddings(2, 5, config.embed_dim)
        key, value = embeddings(2, 7, config.kdim), embeddings(2, 7, config.vdim)
        call = {"model": name, "key": key, "value": value, "need_output": False}
        weights = client.attend(query, **call, head_vectors=ALL, need_weights=True)
        scores = client.attend(query, **call, need_weights=Weights(stage="scores")).attn_weights
        vectors, group = weights.head_vectors, config.num_heads // config.num_kv_heads
        keys, values = vectors.key.repeat(group, axis=1), vectors.value.repeat(group, axis=1)
        assert_near(vectors.query @ keys.swapaxes(-1, -2) * config.scale, scores)
        assert_near(weights.attn_weights @ values, vectors.context)


def test_a_selection_is_a_part_of_everything(client):
    query = embeddings(2, 9, 16)
    everything = client.attend(query, model="grouped", head_vectors=ALL).head_vectors
    chosen = Vectors(kinds=("context", "key"), heads=(3, 0), queries=7, keys=(8, 1, 2))
    result = client.attend(query, model="grouped", head_vectors=chosen)
    vectors = result.head_vectors
    assert (vectors.query, vectors.value) == (None, None)
    # heads 3 and 0 use the second and the first of two heads of keys
    np.testing.assert_allclose(vectors.key, everything.key[:, [1, 0]][:, :, [8, 1, 2]], atol=1e-6)
    np.testing.assert_allclose(vectors.context, everything.context[:, [3, 0]][:, :, [7]], atol=1e-6)
    assert vectors.selection == Vectors(
        kinds=("key", "context"), heads=(3, 0), queries=(7,), keys=(8, 1, 2)
    )
    plain = client.attend(query, model="grouped")
    np.testing.assert_allclose(result.output, plain.output, atol=1e-6)


def test_true_requests_the_vectors_that_need_no_attention(client):
    vectors = client.attend(QUERY, model="plain", head_vectors=True).head_vectors
    assert vectors.context is None
    assert vectors.query.shape == vectors.key.shape == vectors.value.shape == (2, 4, 9, 4)


def test_padding_has_zeros(client):
    full = client.attend(QUERY, model="plain", head_vectors=ALL).head_vectors
    wanted = Vectors(kinds=KINDS, keys=(6, 2))
    short = client.attend(QUERY, model="plain", head_vectors=wanted, kv_lengths=[3, 0]).head_vectors
    assert_near(short.query, full.query)
    np.testing.assert_array_equal(short.key[0, :, 0], 0)
    np.testing.assert_allclose(short.value[0, :, 1], full.value[0, :, 2], atol=1e-6)
    for array in (short.key, short.value, short.context):
        np.testing.assert_array_equal(array[1], 0)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_vectors_have_the_requested_dtype(client, dtype):
    wanted = Vectors(dtype=dtype)
    result = client.attend(QUERY, model="plain", head_vectors=wanted, output_dtype="float32")
    assert (result.output.dtype, result.head_vectors.key.dtype) == (np.float32, dtype)
    result = client.attend(QUERY, model="plain", head_vectors=True, output_dtype="bfloat16")
    assert result.head_vectors.key.dtype == np.float32


def test_streams_carry_vectors_in_batches_and_groups(server, client):
    queries = [embeddings(1, 4, 16, seed=seed) for seed in range(30)]
    alone = [client.attend(query, model="plain", head_vectors=ALL) for query in queries]
    together = client.attend_many(queries, model="plain", head_vectors=ALL)
    for result, expected in zip(together, alone, strict=True):
        same(result.head_vectors, expected.head_vectors)

    async def crowd():
        async with polyhead.AsyncClient(server.target) as several:
            calls = [
                several.attend(
                    query, model="plain", head_vectors=Vectors(kinds=KINDS, heads=index % 2)
                )
                for index, query in enumerate(queries)
            ]
            return await asyncio.gather(*calls)

    for index, result in enumerate(asyncio.run(crowd())):
        expected = alone[index].head_vectors.context[:, [index % 2]]
        np.testing.assert_allclose(result.head_vectors.context, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("head_vectors", "field", "message"),
    [
        (Vectors(kinds=("query", "keys")), "kinds", "expected some of"),
        (Vectors(kinds=()), "kinds", "at least one"),
        (Vectors(kinds=("key", "key")), "kinds", "once"),
        (Vectors(heads=9), "heads", "num_heads"),
        (Vectors(queries=9), "queries[0]", "q_seq_len = 9"),
        (Vectors(keys=(1, 1)), "keys", "once"),
        (Vectors(queries="bank"), "queries", "expected an integer"),
        (Vectors(dtype="int32"), "dtype", "float"),
        ("query", "", "expected True, False or Vectors"),
    ],
)
def test_wrong_selections_are_refused(client, head_vectors, field, message):
    with pytest.raises(polyhead.InvalidArgumentError, match=message) as caught:
        client.attend(QUERY, model="plain", head_vectors=head_vectors)
    assert any(path.startswith(f"head_vectors.{field}".rstrip(".")) for path in caught.value.fields)


def test_a_response_over_the_limit_is_refused_before_anything_runs(tmp_path, blocks):
    write_model(tmp_path, "plain", build_model(blocks["plain"]))
    with (
        running_server(tmp_path, max_response_bytes=20_000) as small,
        polyhead.Client(small.target) as client,
    ):
        query = embeddings(1, 200, 16)
        with pytest.raises(polyhead.ResourceExhaustedError, match="vectors of fewer heads"):
            client.attend(query, model="plain", head_vectors=True, output_dtype="float16")
        wanted = Vectors(kinds="key", keys=(199,))
        result = client.attend(
            query, model="plain", head_vectors=wanted, output_dtype="float16", need_output=False
        )
        assert result.head_vectors.key.shape == (1, 4, 1, 4)


def test_models_of_older_exports_say_that_they_have_to_be_exported_again(tmp_path):
    block = random_block(AttentionConfig(embed_dim=16, num_heads=4), seed=3)
    write_model(tmp_path, "old", without_vectors(build_model(block)))
    with running_server(tmp_path) as server, polyhead.Client(server.target) as client:
        with pytest.raises(polyhead.ModelUnavailableError, match="export it again") as caught:
            client.attend(QUERY, model="old", head_vectors=True)
        assert caught.value.reason == "EXPORT_TOO_OLD"
        result = client.attend(QUERY, model="old", head_vectors=Vectors(kinds=("key", "value")))
        stages = attend_stages(block, QUERY)
        assert_near(result.head_vectors.key, stages.key)
        assert_near(result.output, stages.output)


@pytest.fixture(scope="module")
def whole_target(tmp_path_factory):
    """The address of a server of small whole models."""
    repository = tmp_path_factory.mktemp("whole")
    for family in RECORDED:
        export_whole_model(Checkpoint.open(GOLDEN / family), family, repository)
    texts = tiny_checkpoint(tmp_path_factory.mktemp("texts"), "bert", words_of(["the river bank"]))
    export_whole_model(Checkpoint.open(texts), "texts", repository)
    with running_server(repository, threads=1) as server:
        yield server.target


@pytest.fixture(scope="module")
def whole(whole_target):
    with polyhead.Client(whole_target) as client:
        yield client


def recorded(family):
    """The recorded inputs of a family as forward's arguments, and its vectors of layer 1."""
    inputs = np.load(GOLDEN / family / "whole.npz")
    arrays = dict(np.load(GOLDEN / family / "vectors.npz"))
    arguments = {"token_ids": inputs["input_ids"], "lengths": inputs["attention_mask"].sum(1)}
    if family != "t5":
        return arguments, {1: arrays}
    arguments["decoder_token_ids"] = inputs["decoder_input_ids"]
    stacks = ("encoder", "decoder", "cross")
    return arguments, {
        (stack, 1): {kind: arrays[f"{stack}_{kind}"] for kind in KINDS} for stack in stacks
    }


@pytest.mark.parametrize("family", RECORDED)
def test_whole_models_give_the_vectors_of_transformers(whole, family):
    arguments, layers = recorded(family)
    result = whole.forward(
        **arguments, model=family, head_vectors=dict.fromkeys(layers, ALL), need_output=False
    )
    assert result.head_vectors.keys() == layers.keys()
    for layer, expected in layers.items():
        for kind, array in expected.items():
            actual = getattr(result.head_vectors[layer], kind)
            assert actual.shape == array.shape
            by_key = kind in ("key", "value")
            is_decoders = layer == ("decoder", 1) or (layer == ("cross", 1) and not by_key)
            lengths = [array.shape[2]] * 3 if is_decoders else result.lengths
            for row, wanted, length in zip(actual, array, lengths, strict=True):
                assert_near(row[:, :length], wanted[:, :length])
                assert not row[:, length:].any()


def test_vectors_of_all_layers_come_beside_weights_and_states(whole):
    arguments, _ = recorded("bert")
    wanted = Vectors(kinds=("query", "context"), heads=(2, 1), queries=(6, 3))
    result = whole.forward(
        **arguments, model="bert", head_vectors=wanted, need_weights={1: True}, need_hidden_states=1
    )
    plain = whole.forward(**arguments, model="bert")
    assert_near(result.output, plain.output)
    assert [*result.head_vectors] == [0, 1]
    assert [*result.attn_weights] == [1]
    everything = whole.forward(**arguments, model="bert", head_vectors=ALL).head_vectors
    for layer, vectors in result.head_vectors.items():
        expected = everything[layer].context[:, [2, 1]][:, :, [6, 3]]
        assert_near(vectors.context, expected)
        assert not vectors.query[1, :, 0].any()  # its sequence has 5 tokens
        assert vectors.query[1, :, 1].any()
    block = whole.attend(
        result.hidden_states[1][:1], model="bert", layer=1, head_vectors=ALL
    ).head_vectors
    assert_near(block.context[:, [2, 1]][:, :, [6, 3]], result.head_vectors[1].context[:1])


def test_forward_names_its_argument_in_errors(whole):
    arguments, _ = recorded("bert")
    with pytest.raises(polyhead.InvalidArgumentError, match=r"^head_vectors\[1\]\.heads") as caught:
        whole.forward(**arguments, model="bert", head_vectors={1: Vectors(heads=7)})
    assert [*caught.value.fields] == ["head_vectors[0].selection.heads[0]"]
    with pytest.raises(polyhead.InvalidArgumentError, match=r"^head_vectors\[0\]: expected True"):
        whole.forward(**arguments, model="bert", head_vectors={0: False})
    with pytest.raises(polyhead.InvalidArgumentError, match="layer from 0 to 1"):
        whole.forward(**arguments, model="bert", head_vectors={4: True})


def test_commands_save_vectors(server, whole_target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("query.npy", QUERY)
    arguments = ("--no-output", "--head-vectors", "--out", "block.npz")
    assert (
        main(["attend", "query.npy", "--model", "grouped", "--server", server.target, *arguments])
        == 0
    )
    assert "head_vectors.context  float32 (2, 4, 9, 4)" in capsys.readouterr().out
    with np.load("block.npz") as saved:
        assert {*saved} == {f"head_vectors.{kind}" for kind in KINDS}
    arguments = ("--head-vectors", "1", "--out", "whole.npz")
    assert (
        main(["forward", "the bank", "--model", "texts", "--server", whole_target, *arguments]) == 0
    )
    assert "head_vectors.query.1" in capsys.readouterr().out
    with np.load("whole.npz") as saved:
        assert saved["head_vectors.key.1"].shape == (1, 4, 4, 16)
    assert (
        main(["forward", "a", "--model", "texts", "--server", whole_target, "--head-vectors", "7"])
        == 2
    )
    assert "--head-vectors" in capsys.readouterr().err
