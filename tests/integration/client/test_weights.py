"""Selections, stages and rows from a real server equal parts of the full result exactly."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import polyhead
from polyhead import Weights
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_models.store import write_model
from polyhead_server.running import running_server

TOLERANCE = {"rtol": 0, "atol": 1e-6}


def embeddings(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


QUERY = embeddings(2, 9, 16)
LENGTHS = [9, 5]


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.fixture
def attend(client):
    def call(need_weights=True, model="plain", query=QUERY, **arguments):
        return client.attend(query, model=model, need_weights=need_weights, **arguments)

    return call


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_selected_heads_and_queries_equal_those_of_the_full_result(attend, lengths):
    everything = attend(kv_lengths=lengths)
    result = attend(Weights(heads=(3, 0), queries=(8, 1, 2)), kv_lengths=lengths)
    np.testing.assert_allclose(
        result.attn_weights, everything.attn_weights[:, [3, 0]][:, :, [8, 1, 2]], **TOLERANCE
    )
    np.testing.assert_allclose(result.output, everything.output, **TOLERANCE)


def test_one_row_without_output(attend):
    result = attend(Weights(queries=4), need_output=False)
    assert result.output is None
    assert result.attn_weights.shape == (2, 4, 1, 9)
    np.testing.assert_allclose(result.attn_weights, attend().attn_weights[:, :, 4:5], **TOLERANCE)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("need_output", [False, True])
def test_top_k_selects_the_largest_of_each_row(attend, average, need_output):
    weights = attend().attn_weights
    if average:
        weights = weights.mean(axis=1, keepdims=True)
    wanted = Weights(top_k=3, average_heads=average)
    result = attend(wanted, need_output=need_output)
    expected = np.argsort(-weights, axis=-1, kind="stable")[..., :3]
    np.testing.assert_array_equal(result.top_keys, expected)
    np.testing.assert_allclose(
        result.attn_weights, np.take_along_axis(weights, expected, axis=-1), **TOLERANCE
    )


def test_top_k_returns_at_most_all_keys(attend):
    result = attend(Weights(top_k=50))
    assert result.attn_weights.shape == result.top_keys.shape == (2, 4, 9, 9)


def test_top_k_breaks_ties_by_the_lower_key(attend):
    result = attend(Weights(top_k=4), query=np.ones((1, 9, 16), np.float32))
    np.testing.assert_array_equal(result.top_keys, np.broadcast_to(range(4), (1, 4, 9, 4)))


@pytest.mark.parametrize("model", ["plain", "causal"])
def test_weights_are_the_softmax_of_the_masked_scores(attend, model):
    query = embeddings(2, 9, 16 if model == "plain" else 32)
    mask = embeddings(9, 9, seed=1)
    mask[0, 3] = -np.inf
    stages = {
        stage: attend(Weights(stage=stage), model, query, attn_mask=mask).attn_weights
        for stage in ("scores", "masked", "weights")
    }
    assert np.isfinite(stages["scores"]).all()
    assert np.isneginf(stages["masked"][:, :, 0, 3]).all()
    allowed = np.isfinite(stages["masked"])
    added = np.broadcast_to(mask, allowed.shape)
    np.testing.assert_allclose(
        stages["masked"][allowed], (stages["scores"] + added)[allowed], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(softmax(stages["masked"]), stages["weights"], **TOLERANCE)


def test_weights_have_a_dtype_of_their_own(attend):
    result = attend(Weights(dtype="float16"))
    assert result.attn_weights.dtype == np.float16
    assert result.output.dtype == np.float32


def test_the_server_refuses_heads_that_the_model_lacks(attend):
    with pytest.raises(polyhead.InvalidArgumentError) as caught:
        attend(Weights(heads=4))
    assert any(field.startswith("attn_weights.heads") for field in caught.value.fields)


@pytest.mark.parametrize("rows_per_block", [None, 1, 4, 100])
@pytest.mark.parametrize("model", ["plain", "causal", "contexts"])
def test_blocks_of_rows_join_to_the_full_result(client, attend, model, rows_per_block):
    query = embeddings(2, 9, 32 if model == "causal" else 16)
    whole = attend(model=model, query=query, kv_lengths=LENGTHS)
    with client.attend_rows(
        query, model=model, kv_lengths=LENGTHS, rows_per_block=rows_per_block
    ) as stream:
        blocks = list(stream)
    assert sum((rows.queries for rows in blocks), ()) == tuple(range(9))
    if rows_per_block:
        assert len(blocks) == -(-9 // rows_per_block)
    weights = np.concatenate([rows.attn_weights for rows in blocks], axis=2)
    output = np.concatenate([rows.output for rows in blocks], axis=1)
    np.testing.assert_allclose(weights, whole.attn_weights, **TOLERANCE)
    np.testing.assert_allclose(output, whole.output, rtol=0, atol=1e-5)


def test_selected_rows_come_in_blocks(client, attend):
    wanted = Weights(queries=(7, 0, 3), heads=2, top_k=2)
    whole = attend()
    blocks = list(client.attend_rows(QUERY, model="plain", need_weights=wanted, rows_per_block=2))
    assert [rows.queries for rows in blocks] == [(7, 0), (3,)]
    for rows in blocks:
        np.testing.assert_allclose(
            rows.output, whole.output[:, list(rows.queries)], rtol=0, atol=1e-5
        )
        expected = np.sort(whole.attn_weights[:, 2:3, list(rows.queries)])[..., :-3:-1]
        np.testing.assert_allclose(rows.attn_weights, expected, **TOLERANCE)


def test_rows_come_to_the_async_client_too(server, attend):
    async def read():
        async with polyhead.AsyncClient(server.target) as client:
            blocks = client.attend_rows(QUERY, model="plain", rows_per_block=4)
            return [rows.attn_weights async for rows in blocks]

    weights = np.concatenate(asyncio.run(read()), axis=2)
    np.testing.assert_allclose(weights, attend().attn_weights, **TOLERANCE)


def test_attend_rows_raises_the_errors_of_attend(client):
    with pytest.raises(polyhead.ModelNotFoundError):
        next(client.attend_rows(QUERY, model="plane"))
    with pytest.raises(polyhead.InvalidArgumentError, match="embed_dim"):
        next(client.attend_rows(QUERY[..., 1:], model="plain"))


def test_leaving_a_stream_early_does_not_harm_the_server(client):
    query = embeddings(1, 512, 16)
    for _ in range(3):
        with client.attend_rows(query, model="plain", rows_per_block=1) as blocks:
            assert next(blocks).queries == (0,)
    assert client.attend(QUERY, model="plain").output.shape == QUERY.shape


def test_top_names_the_keys_with_the_largest_weights(attend):
    tokens = [f"t{place}" for place in range(9)]
    result = attend(Weights(queries=4, top_k=3, average_heads=True), need_output=False)
    full = attend()
    assert [token for token, _ in result.top(tokens, "t4", batch=1)] == [
        token for token, _ in full.top(tokens, "t4", batch=1, k=3)
    ]
    assert len(result.plot(tokens).axes) == 1  # the bars of one row
    assert len(full.plot(tokens, head=0).axes) == 2  # one map and its colour bar


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """A client of a server with a rotary model and one without input projections."""
    folder = tmp_path_factory.mktemp("variants")
    configs = {
        "rotary": AttentionConfig(embed_dim=16, num_heads=4, rotary=Rotary(dim=4)),
        "heads": AttentionConfig(
            embed_dim=32, num_heads=4, num_kv_heads=2, v_head_dim=6,
            has_in_proj=False, has_out_proj=False,
        ),
    }  # fmt: skip
    for name, config in configs.items():
        write_model(folder, name, build_model(random_block(config, seed=3)))
    with running_server(folder, threads=1) as server, polyhead.Client(server.target) as client:
        yield client


def test_positions_change_the_weights(variants):
    def weights(**positions):
        result = variants.attend(QUERY, model="rotary", need_weights=True, **positions)
        return result.attn_weights

    usual = weights()
    np.testing.assert_allclose(weights(positions=np.arange(9)), usual, **TOLERANCE)
    # only the distance counts, so that all may be moved together
    np.testing.assert_allclose(weights(positions=np.arange(9) + 7), usual, rtol=0, atol=1e-5)
    spread = weights(positions=[range(9), range(0, 90, 10)])
    np.testing.assert_allclose(spread[0], usual[0], **TOLERANCE)
    assert np.abs(spread[1] - usual[1]).max() > 0.01
    moved = weights(key_positions=np.arange(9) + 5)
    assert np.abs(moved - usual).max() > 0.01
    assert variants.model("rotary").spec.rotary.dim == 4


def test_models_without_rotary_embedding_refuse_positions(attend):
    with pytest.raises(polyhead.InvalidArgumentError) as caught:
        attend(positions=np.arange(9))
    assert any(field.startswith("positions") for field in caught.value.fields)


def test_heads_as_input_give_heads_as_output(variants):
    query, key, value = embeddings(2, 4, 9, 8), embeddings(2, 2, 7, 8), embeddings(2, 2, 7, 6)
    result = variants.attend(query, model="heads", key=key, value=value, need_weights=True)
    keys, values = key.repeat(2, axis=1), value.repeat(2, axis=1)
    weights = softmax(query @ keys.swapaxes(-1, -2) / np.sqrt(8))
    np.testing.assert_allclose(result.attn_weights, weights, **TOLERANCE)
    np.testing.assert_allclose(result.output, weights @ values, rtol=0, atol=1e-5)
    blocks = list(
        variants.attend_rows(query, model="heads", key=key, value=value, rows_per_block=4)
    )
    assert [rows.queries for rows in blocks] == [(0, 1, 2, 3), (4, 5, 6, 7), (8,)]
    output = np.concatenate([rows.output for rows in blocks], axis=2)
    np.testing.assert_allclose(output, result.output, rtol=0, atol=1e-5)


def test_heads_may_be_concatenated(variants):
    query, key, value = embeddings(2, 4, 9, 8), embeddings(2, 2, 7, 8), embeddings(2, 2, 7, 6)
    apart = variants.attend(query, model="heads", key=key, value=value)
    concatenated = variants.attend(
        query.swapaxes(1, 2).reshape(2, 9, 32),
        model="heads",
        key=key.swapaxes(1, 2).reshape(2, 7, 16),
        value=value.swapaxes(1, 2).reshape(2, 7, 12),
    )
    assert concatenated.output.shape == (2, 9, 24)
    expected = apart.output.swapaxes(1, 2).reshape(2, 9, 24)
    np.testing.assert_allclose(concatenated.output, expected, **TOLERANCE)


def test_models_with_projections_take_no_heads(client):
    with pytest.raises(polyhead.InvalidArgumentError) as caught:
        client.attend(embeddings(2, 4, 9, 4), model="plain")
    assert any(field.startswith("query") for field in caught.value.fields)
