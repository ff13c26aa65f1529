"""The float64 reference against loops over plain Python numbers, which share no code with it."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyhead_models.config import AttentionConfig
from polyhead_models.random_block import random_block
from polyhead_models.reference import attend


def linear(block, name, row):
    """One row through one linear map."""
    weight = block.weights[f"{name}.weight"].tolist()
    bias = block.weights.get(f"{name}.bias", np.zeros(len(weight))).tolist()
    return [
        sum(w * x for w, x in zip(weight[i], row, strict=True)) + bias[i]
        for i in range(len(weight))
    ]


def attend_one(block, query_row, key_rows, value_rows, head, bias):
    """One head of one query: its weights and its context."""
    head_dim = block.config.head_dim
    part = slice(head * head_dim, (head + 1) * head_dim)
    q = linear(block, "q_proj", query_row)[part]
    scores = [
        sum(a * b for a, b in zip(q, linear(block, "k_proj", row)[part], strict=True))
        * block.config.scale
        + bias[j]
        for j, row in enumerate(key_rows)
    ]
    seen = [score for score in scores if score != -math.inf]
    if not seen:
        return [0.0] * len(scores), [0.0] * head_dim
    powers = [math.exp(score - max(seen)) for score in scores]
    weights = [power / sum(powers) for power in powers]
    values = [linear(block, "v_proj", row)[part] for row in value_rows]
    return weights, [
        sum(w * v[d] for w, v in zip(weights, values, strict=True)) for d in range(head_dim)
    ]


def attend_by_loops(block, query, key, value, attn_mask, kv_lengths):
    config = block.config
    (batch_size, q_seq_len, _), kv_seq_len = query.shape, key.shape[1]
    output = np.empty((batch_size, q_seq_len, config.output_dim))
    attn_weights = np.empty((batch_size, config.num_heads, q_seq_len, kv_seq_len))

    def bias_of(*place):
        j = place[-1]
        if config.is_causal and j > place[-2]:
            return -math.inf
        if kv_lengths is not None and j >= kv_lengths[place[0]]:
            return -math.inf
        if attn_mask is None:
            return 0.0
        # broadcasting, spelt out: aligned at the last axis, axes of length 1 are repeated
        place = place[4 - attn_mask.ndim :]
        entry = attn_mask[tuple(min(i, n - 1) for i, n in zip(place, attn_mask.shape, strict=True))]
        if attn_mask.dtype == np.bool_:
            return 0.0 if entry else -math.inf
        return float(entry)

    for b, i in itertools.product(range(batch_size), range(q_seq_len)):
        context = []
        for h in range(config.num_heads):
            bias = [bias_of(b, h, i, j) for j in range(kv_seq_len)]
            attn_weights[b, h, i], part = attend_one(
                block, query[b, i].tolist(), key[b].tolist(), value[b].tolist(), h, bias
            )
            context += part
        output[b, i] = linear(block, "out_proj", context) if config.has_out_proj else context
    return output, attn_weights


@st.composite
def calls(draw):
    """A block, and the arguments of a call of it."""
    small = st.integers(1, 4)
    config = AttentionConfig(
        embed_dim=draw(small),
        num_heads=draw(small),
        head_dim=draw(small),
        kdim=draw(small),
        vdim=draw(small),
        is_causal=draw(st.booleans()),
        scale=draw(st.sampled_from([0.0, 0.5, 3.0])),
        has_out_proj=draw(st.booleans()),
    )
    block = random_block(config, draw(st.integers(0, 99)), bias=draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    batch_size, q_seq_len, kv_seq_len = draw(small), draw(small), draw(small)
    query = rng.normal(size=(batch_size, q_seq_len, config.embed_dim))
    key = rng.normal(size=(batch_size, kv_seq_len, config.kdim))
    value = rng.normal(size=(batch_size, kv_seq_len, config.vdim))

    attn_mask = None
    if kind := draw(st.sampled_from(["", "bool", "float", "lowest"])):
        full = (batch_size, config.num_heads, q_seq_len, kv_seq_len)
        shape = [n if draw(st.booleans()) else 1 for n in full][draw(st.integers(0, 3)) :]
        attn_mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        if kind != "bool":
            forbidden = -np.inf if kind == "float" else np.finfo(np.float32).min
            attn_mask = np.where(attn_mask, rng.normal(size=shape), forbidden).astype(np.float32)
    kv_lengths = None
    if draw(st.booleans()):
        kv_lengths = rng.integers(0, kv_seq_len + 1, size=batch_size)
    return block, query, key, value, attn_mask, kv_lengths


@settings(deadline=None, max_examples=150)
@given(calls())
def test_agrees_with_loops(call):
    block, query, key, value, attn_mask, kv_lengths = call
    output, attn_weights = attend(
        block, query, key, value, attn_mask=attn_mask, kv_lengths=kv_lengths
    )
    expected_output, expected_weights = attend_by_loops(*call)
    assert output.dtype == attn_weights.dtype == np.float64
    np.testing.assert_allclose(attn_weights, expected_weights, rtol=0, atol=1e-12)
    np.testing.assert_allclose(output, expected_output, rtol=0, atol=1e-11)


@pytest.fixture
def block():
    return random_block(AttentionConfig(embed_dim=8, num_heads=2), seed=1)


@pytest.fixture
def query():
    return np.random.default_rng(2).normal(size=(2, 3, 8))


def test_key_defaults_to_query_and_value_to_key(block, query):
    key = query[:, ::-1]
    for given_, full in [((query,), (query, query, query)), ((query, key), (query, key, key))]:
        for result, expected in zip(attend(block, *given_), attend(block, *full), strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("may", "may_not"), [(True, False), (0.0, -np.inf)])
def test_a_query_that_sees_nothing_gets_the_output_bias(block, query, may, may_not):
    attn_mask = np.array([[may_not] * 3, [may] * 3, [may] * 3])
    output, attn_weights = attend(block, query, attn_mask=attn_mask)
    assert not attn_weights[:, :, 0].any()
    np.testing.assert_array_equal(output[:, 0], [block.weights["out_proj.bias"]] * 2)
    np.testing.assert_allclose(attn_weights[:, :, 1:].sum(-1), 1.0)


def test_a_row_of_the_lowest_float32_is_uniform(block, query):
    lowest = np.full((3, 3), np.finfo(np.float32).min, dtype=np.float32)
    _, attn_weights = attend(block, query, attn_mask=lowest)
    np.testing.assert_allclose(attn_weights, 1 / 3)


def test_a_sequence_of_length_zero_sees_nothing(block, query):
    _, attn_weights = attend(block, query, kv_lengths=[0, 2])
    assert not attn_weights[0].any()
    np.testing.assert_allclose(attn_weights[1].sum(-1), 1.0)
    assert not attn_weights[1, :, :, 2].any()


def test_large_scores_do_not_overflow(block, query):
    _, attn_weights = attend(block, 1e6 * query)
    np.testing.assert_allclose(attn_weights.sum(-1), 1.0)


def test_a_mask_larger_than_the_scores_is_refused(block, query):
    with pytest.raises(ValueError, match="broadcast"):
        attend(block, query, attn_mask=np.ones((4, 1, 1, 1), dtype=bool))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_narrower_inputs_are_computed_in_float64(block, query, dtype):
    narrow = query.astype(dtype)
    for result, expected in zip(
        attend(block, narrow), attend(block, narrow.astype(np.float64)), strict=True
    ):
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, expected)
