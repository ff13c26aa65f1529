"""Compares the float64 reference with loops over Python numbers, which share no code with it.

Only frequencies, slopes and buckets come from the package; test_rotary.py and test_position_bias.py
compare those with other implementations.
"""

import cmath
import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from configs import attention_calls
from hypothesis import given, settings

from polyhead_models.config import AttentionConfig
from polyhead_models.position_bias import alibi_slopes, relative_buckets
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend, attend_stages


def linear(block, name, row):
    """Apply one linear map to one row, if the block has the map."""
    if f"{name}.weight" not in block.weights:
        return row
    weight = block.weights[f"{name}.weight"].tolist()
    bias = block.weights.get(f"{name}.bias", np.zeros(len(weight))).tolist()
    return [
        sum(w * x for w, x in zip(weight[i], row, strict=True)) + bias[i]
        for i in range(len(weight))
    ]


def normalised(block, name, head):
    if not block.config.qk_norm_eps:
        return head
    root = math.sqrt(sum(x * x for x in head) / len(head) + block.config.qk_norm_eps)
    weight = block.weights[f"{name}.weight"].tolist()
    return [x / root * w for x, w in zip(head, weight, strict=True)]


def rotated(rotary, head, position, last):
    """Rotate pairs of dimensions as complex numbers."""
    if rotary is None:
        return head
    half, head = rotary.dim // 2, list(head)
    for i, frequency in enumerate(rotary.inverse_frequencies(max_position=last)):
        a, b = (2 * i, 2 * i + 1) if rotary.is_interleaved else (i, i + half)
        angle = float(np.float32(position) * frequency)
        turned = complex(head[a], head[b]) * cmath.exp(1j * angle) * rotary.attention_factor
        head[a], head[b] = turned.real, turned.imag
    return head


def part(row, head, width):
    return row[head * width : (head + 1) * width]


def softmax(row, sink):
    seen = [score for score in row if score != -math.inf]
    if not seen:
        return [0.0] * len(row)
    largest = max(seen if sink is None else [*seen, sink])
    powers = [math.exp(score - largest) for score in row]
    total = sum(powers) + (0.0 if sink is None else math.exp(sink - largest))
    return [power / total for power in powers]


def added_to_score(block, attn_mask, kv_lengths, b, h, i, j):
    """Sum all biases and masks of one query and one key."""
    config = block.config
    if config.is_causal and j > i:
        return -math.inf
    if config.sliding_window and abs(i - j) >= config.sliding_window:
        return -math.inf
    if kv_lengths is not None and j >= kv_lengths[b]:
        return -math.inf
    bias = 0.0
    if config.has_alibi:
        bias -= float(alibi_slopes(config.num_heads)[h]) * abs(i - j)
    if config.relative_buckets:
        sizes = config.relative_buckets, config.relative_max_distance
        (bucket,) = relative_buckets(np.array([j - i]), *sizes, is_causal=config.is_causal)
        bias += float(block.weights["relative_bias.weight"][bucket, h])
    if attn_mask is None:
        return bias
    # broadcasting, spelt out: aligned at the last axis, axes of length 1 are repeated
    index = (b, h, i, j)[4 - attn_mask.ndim :]
    entry = attn_mask[tuple(min(at, n - 1) for at, n in zip(index, attn_mask.shape, strict=True))]
    if attn_mask.dtype == np.bool_:
        return bias if entry else -math.inf
    return bias + float(entry)


def attend_by_loops(
    block,
    query,
    key=None,
    value=None,
    attn_mask=None,
    kv_lengths=None,
    positions=None,
    key_positions=None,
):
    config, rotary = block.config, block.config.rotary
    if key is None:
        key, value, key_positions = query, query, positions
    (batch_size, q_seq_len, _), kv_seq_len = query.shape, key.shape[1]

    def position(given_, b, at):
        return at if given_ is None else int(given_[b, at] if given_.ndim == 2 else given_[at])

    indices = list(itertools.product(range(batch_size), range(q_seq_len)))
    key_indices = list(itertools.product(range(batch_size), range(kv_seq_len)))
    turns = {(b, i): position(positions, b, i) for b, i in indices}
    key_turns = {(b, j): position(key_positions, b, j) for b, j in key_indices}
    last = max(*turns.values(), *key_turns.values())
    ks = {(b, j): linear(block, "k_proj", key[b, j].tolist()) for b, j in key_indices}
    vs = {(b, j): linear(block, "v_proj", value[b, j].tolist()) for b, j in key_indices}

    shape = (batch_size, config.num_heads, q_seq_len, kv_seq_len)
    scores, masked, weights = np.empty(shape), np.empty(shape), np.empty(shape)
    output = np.empty((batch_size, q_seq_len, config.output_dim))
    for b, i in indices:
        context = []
        q_row = linear(block, "q_proj", query[b, i].tolist())
        for h in range(config.num_heads):
            kv = h // (config.num_heads // config.num_kv_heads)
            q = normalised(block, "q_norm", part(q_row, h, config.head_dim))
            q = rotated(rotary, q, turns[b, i], last)
            for j in range(kv_seq_len):
                k = normalised(block, "k_norm", part(ks[b, j], kv, config.head_dim))
                k = rotated(rotary, k, key_turns[b, j], last)
                score = sum(x * y for x, y in zip(q, k, strict=True)) * config.scale
                if config.softcap:
                    score = config.softcap * math.tanh(score / config.softcap)
                scores[b, h, i, j] = score
                added = added_to_score(block, attn_mask, kv_lengths, b, h, i, j)
                masked[b, h, i, j] = score + added
            sink = float(block.weights["sinks"][h]) if config.has_sinks else None
            weights[b, h, i] = softmax(masked[b, h, i].tolist(), sink)
            context += [
                sum(
                    weights[b, h, i, j] * part(vs[b, j], kv, config.v_head_dim)[d]
                    for j in range(kv_seq_len)
                )
                for d in range(config.v_head_dim)
            ]
        output[b, i] = linear(block, "out_proj", context)
    return {"scores": scores, "masked": masked, "attn_weights": weights, "output": output}


@settings(deadline=None, max_examples=150)
@given(attention_calls())
def test_the_reference_equals_loops(call):
    block, arguments = call
    stages = attend_stages(block, **arguments)
    for name, expected in attend_by_loops(block, **arguments).items():
        result = getattr(stages, name)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-11, err_msg=name)
    output, attn_weights = attend(block, **arguments)
    np.testing.assert_array_equal(output, stages.output)
    np.testing.assert_array_equal(attn_weights, stages.attn_weights)


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


@pytest.mark.parametrize(("allow", "forbid"), [(True, False), (0.0, -np.inf)])
def test_a_query_without_visible_keys_gets_the_output_bias(block, query, allow, forbid):
    attn_mask = np.array([[forbid] * 3, [allow] * 3, [allow] * 3])
    output, attn_weights = attend(block, query, attn_mask=attn_mask)
    assert not attn_weights[:, :, 0].any()
    np.testing.assert_array_equal(output[:, 0], [block.weights["out_proj.bias"]] * 2)
    np.testing.assert_allclose(attn_weights[:, :, 1:].sum(-1), 1.0)


def test_a_row_of_the_lowest_float32_is_uniform(block, query):
    lowest = np.full((3, 3), np.finfo(np.float32).min, dtype=np.float32)
    _, attn_weights = attend(block, query, attn_mask=lowest)
    np.testing.assert_allclose(attn_weights, 1 / 3)


def test_a_sequence_of_length_zero_has_no_weights(block, query):
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
