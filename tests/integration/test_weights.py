"""Weights as an instrument, over real gRPC: every selection against the float64 reference."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from raw_calls import WIDTH, call, channel_that_outlives, embeddings, request
from variants import VARIANTS

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_models.reference import attention as reference
from polyhead_server.running import running_server

STAGES = {"attn_weights": 1, "scores": 2, "masked": 3}
SEQ_LEN = 7


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


@pytest.fixture(scope="module")
def cramped(repository):
    """A server that computes the scores of one or two rows at a time."""
    with running_server(repository, threads=1, max_scores_bytes=1024) as running:
        yield running


@pytest.fixture
def cramped_channel(cramped):
    with channel_that_outlives(cramped) as channel:
        yield channel


def attend(channel, **fields):
    answer = call(channel, request(**fields).SerializeToString())
    return pb.AttendResponse.FromString(answer)


def heads_of(array, num_heads):
    return array.reshape(*array.shape[:2], num_heads, -1).transpose(0, 2, 1, 3)


def selected(stage, selection):
    """What a selection leaves of all weights of a stage, and the keys' indices."""
    kept = stage[:, selection.heads] if selection.heads else stage
    kept = kept[:, :, selection.queries] if selection.queries else kept
    kept = kept.mean(axis=1, keepdims=True) if selection.average_heads else kept
    if not selection.top_k:
        return kept, None
    order = np.argsort(-kept, axis=-1, kind="stable")[..., : selection.top_k]
    return np.take_along_axis(kept, order, axis=-1), order


MODELS = [
    *("plain", "causal", "causal-narrow", "grouped", "window"),
    *("softcap", "rotary", "longrope", "dynamic"),
]
MODELS += ["alibi", "relative", "sinks", "norm"]


@st.composite
def selections(draw):
    """A model, and a selection of its weights."""
    model = draw(st.sampled_from(MODELS))
    num_heads = VARIANTS[model].num_heads
    return model, pb.AttnWeightsSelection(
        heads=draw(st.permutations(range(num_heads)))[: draw(st.integers(0, num_heads))],
        queries=draw(st.permutations(range(SEQ_LEN)))[: draw(st.integers(0, SEQ_LEN))],
        top_k=draw(st.sampled_from([0, 0, 1, 3, SEQ_LEN, 1000])),
        average_heads=draw(st.booleans()),
        stage=draw(st.integers(0, 3)),
    )


@hypothesis.settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    drawn=selections(),
    has_mask=st.booleans(),
    omit_output=st.booleans(),
    is_cramped=st.booleans(),
    seed=st.integers(0, 99),
)
def test_selections_agree_with_the_reference(
    channel, cramped_channel, blocks, drawn, has_mask, omit_output, is_cramped, seed
):
    model, selection = drawn
    block = blocks[model]
    query = embeddings(2, SEQ_LEN, block.config.embed_dim, seed=seed)
    mask = np.random.default_rng(seed).random((2, 1, SEQ_LEN, SEQ_LEN)) < 0.7
    given = {"attn_mask": mask} if has_mask else {}
    stages = reference.attend_stages(block, query, **given)

    answer = attend(
        cramped_channel if is_cramped else channel,
        model=model,
        query=to_tensor(query),
        attn_weights=selection,
        omit_output=omit_output,
        **{name: to_tensor(array) for name, array in given.items()},
    )

    name = next(name for name, number in STAGES.items() if number == (selection.stage or 1))
    expected, order = selected(getattr(stages, name), selection)
    actual = to_array(answer.attn_weights)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-5)
    assert answer.HasField("top_keys") == bool(selection.top_k)
    if order is not None:
        keys = to_array(answer.top_keys)
        assert keys.shape == expected.shape
        # those of weights that float32 tells apart
        at_keys = np.take_along_axis(selected_rows(stages, name, selection), keys, axis=-1)
        np.testing.assert_allclose(at_keys, expected, rtol=2e-5, atol=1e-5)
        assert all(len(set(row)) == len(row) for row in keys.reshape(-1, keys.shape[-1]).tolist())
    assert answer.HasField("output") != omit_output
    if not omit_output:
        np.testing.assert_allclose(to_array(answer.output), stages.output, atol=5e-5)


def selected_rows(stages, name, selection):
    """All keys of the rows that were selected."""
    everything = pb.AttnWeightsSelection()
    everything.CopyFrom(selection)
    everything.top_k = 0
    return selected(getattr(stages, name), everything)[0]


def test_of_equal_weights_the_first_keys_come_first(channel):
    key = np.zeros((2, 5, WIDTH), np.float32)
    answer = attend(
        channel,
        key=to_tensor(key),
        attn_weights=pb.AttnWeightsSelection(top_k=3),
    )
    np.testing.assert_array_equal(to_array(answer.top_keys), np.tile([0, 1, 2], (2, 4, 3, 1)))
    np.testing.assert_allclose(to_array(answer.attn_weights), 0.2, atol=1e-6)


def test_padding_comes_after_all_other_keys(channel):
    answer = attend(
        channel,
        kv_lengths=[1, 3],
        attn_weights=pb.AttnWeightsSelection(top_k=2, heads=[0]),
    )
    weights, keys = to_array(answer.attn_weights), to_array(answer.top_keys)
    np.testing.assert_allclose(weights[0], [[[1, 0]] * 3], atol=1e-6)
    assert (keys[0, ..., 0] == 0).all()
    assert (weights[1] > 0).all()


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype", "atol"),
    [
        (pb.DATA_TYPE_FLOAT16, np.float16, 1e-3),
        (pb.DATA_TYPE_BFLOAT16, np.float32, 1e-2),
        (pb.DATA_TYPE_DOUBLE, np.float64, 1e-6),
    ],
)
def test_weights_in_a_dtype_of_their_own(channel, dtype, numpy_dtype, atol):
    plain = attend(channel, attn_weights=pb.AttnWeightsSelection())
    answer = attend(channel, attn_weights=pb.AttnWeightsSelection(dtype=dtype))
    assert answer.attn_weights.dtype == dtype
    assert answer.output == plain.output
    weights = to_array(answer.attn_weights)
    assert weights.dtype == numpy_dtype
    np.testing.assert_allclose(weights, to_array(plain.attn_weights), atol=atol)


# ---------------------------------------------------------------- positions


def test_positions_reach_the_model(channel, blocks):
    query, positions = embeddings(2, 5, WIDTH), np.array([[0, 9, 4, 4, 1], [7, 8, 9, 10, 11]])
    expected = reference.attend_stages(
        blocks["rotary"], query, positions=positions, key_positions=positions
    )
    fields = {"model": "rotary", "query": to_tensor(query), "positions": to_tensor(positions)}
    for weights in ({}, {"attn_weights": pb.AttnWeightsSelection()}):
        answer = attend(channel, **fields, **weights)
        np.testing.assert_allclose(to_array(answer.output), expected.output, atol=5e-5)
    np.testing.assert_allclose(to_array(answer.attn_weights), expected.attn_weights, atol=1e-5)
    # one row for all sequences, and keys that are elsewhere
    moved = attend(
        channel,
        model="rotary",
        query=to_tensor(query),
        positions=to_tensor(positions[1].astype(np.int32)),
        key_positions=to_tensor(positions[1] + 1000),
    )
    elsewhere = reference.attend_stages(
        blocks["rotary"],
        query,
        positions=np.stack([positions[1]] * 2),
        key_positions=np.stack([positions[1] + 1000] * 2),
    )
    np.testing.assert_allclose(to_array(moved.output), elsewhere.output, atol=2e-4)


def test_only_differences_of_positions_count(channel):
    query = to_tensor(embeddings(2, 3, WIDTH))
    here = attend(channel, model="rotary", query=query)
    there = attend(channel, model="rotary", query=query, positions=to_tensor(np.arange(3) + 100))
    np.testing.assert_allclose(to_array(there.output), to_array(here.output), atol=1e-4)


# ---------------------------------------------------------------- heads as they are


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("need_weights", [False, True])
def test_heads_one_by_one_and_side_by_side_are_the_same(channel, blocks, dtype, need_weights):
    query, key, value = (
        embeddings(2, length, width).astype(dtype) for length, width in ((3, 16), (5, 8), (5, 12))
    )
    wanted = {"attn_weights": pb.AttnWeightsSelection()} if need_weights else {}
    wanted["output_dtype"] = pb.DATA_TYPE_FLOAT
    arrays = {"query": query, "key": key, "value": value}
    num_heads = {"query": 4, "key": 2, "value": 2}
    sent = {name: to_tensor(array) for name, array in arrays.items()}
    flat = attend(channel, model="sdpa", **sent, **wanted)
    sent = {name: to_tensor(heads_of(a, num_heads[name])) for name, a in arrays.items()}
    split = attend(channel, model="sdpa", **sent, **wanted)
    expected = reference.attend_stages(
        blocks["sdpa"], *(a.astype(np.float64) for a in arrays.values())
    )
    np.testing.assert_allclose(to_array(flat.output), expected.output, atol=2e-5)
    output = to_array(split.output)
    assert output.shape == (2, 4, 3, 6)
    np.testing.assert_array_equal(output, heads_of(to_array(flat.output), 4))
    assert split.attn_weights == flat.attn_weights


def test_padding_takes_no_weight(client):
    query = np.random.default_rng(8).standard_normal((2, 3, 16)).astype(np.float32)
    for padding in ([[1, 1, 0], [1, 0, 0]], [[0, 1, 1], [1, 1, 1]], [[0, 0, 0], [1, 0, 1]]):
        result = client.attend(query, model="plain", key_padding_mask=padding, need_weights=True)
        seen = result.attn_weights.sum(axis=(1, 2)) > 0
        np.testing.assert_array_equal(seen, np.array(padding, bool))
