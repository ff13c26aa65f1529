"""Properties of the float64 reference that hold for every block."""

import dataclasses

import numpy as np
import pytest
from configs import (
    arguments_of,
    attention_calls,
    attention_configs,
    block_of,
    rotaries,
    takes_itself,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from polyhead_models.blocks import AttentionBlock
from polyhead_models.config import AttentionConfig
from polyhead_models.reference.attention import attend, attend_stages
from polyhead_models.rotary import SCALINGS

SEEDS = st.integers(0, 99)
EXACTLY = {"rtol": 1e-9, "atol": 1e-11}
slow = settings(deadline=None, max_examples=60)


def with_weights(block, config=None, **weights):
    """Copy a block with some weights replaced (names with __ instead of a dot)."""
    replaced = {name.replace("__", "."): array for name, array in weights.items()}
    return AttentionBlock(
        config=config or block.config,
        weights={**block.weights, **replaced},
        provenance=block.provenance,
    )


@slow
@given(attention_calls())
def test_rows_sum_to_one_or_with_sinks_to_less_or_without_keys_to_zero(call):
    block, arguments = call
    stages = attend_stages(block, **arguments)
    sees = (stages.masked > -np.inf).any(axis=-1)
    sums = stages.attn_weights.sum(axis=-1)
    assert (stages.attn_weights >= 0).all()
    assert not sums[~sees].any()
    if block.config.has_sinks:
        assert (sums[sees] < 1).all()
    else:
        np.testing.assert_allclose(sums[sees], 1.0)
    assert not stages.attn_weights[np.isneginf(stages.masked)].any()
    assert np.isfinite(stages.output).all()


@slow
@given(attention_calls(attention_configs(has_sinks=True)))
def test_a_sink_of_minus_infinity_has_no_effect(call):
    """Also, scaling rows with sinks to a sum of 1 gives the weights without sinks."""
    block, arguments = call
    without_sinks = dataclasses.replace(block.config, has_sinks=False)
    weights = {name: array for name, array in block.weights.items() if name != "sinks"}
    plain = AttentionBlock(config=without_sinks, weights=weights, provenance=block.provenance)
    expected = attend_stages(plain, **arguments)
    lowest = np.full(without_sinks.num_heads, -np.inf, np.float32)
    result = attend_stages(with_weights(block, sinks=lowest), **arguments)
    np.testing.assert_allclose(result.attn_weights, expected.attn_weights, **EXACTLY)

    with_sinks = attend_stages(block, **arguments).attn_weights
    sums = with_sinks.sum(axis=-1, keepdims=True)
    # a mask of the lowest float32 puts all keys so far below the sink that their weights are 0
    scaled = np.divide(with_sinks, sums, out=np.zeros_like(with_sinks), where=sums > 0)
    rows = (sums > 0)[..., 0]
    np.testing.assert_allclose(scaled[rows], expected.attn_weights[rows], **EXACTLY)


@slow
@given(attention_configs(is_causal=True), SEEDS)
def test_causal_rows_ignore_later_keys(config, seed):
    block = block_of(config, seed)
    arguments = arguments_of(config, seed, q_seq_len=4, kv_seq_len=7)
    output, attn_weights = attend(block, **arguments)
    assert not np.triu(attn_weights, k=1).any()
    for name in ("key", "value"):
        arguments[name] = arguments[name].copy()
        arguments[name][:, 3:] = 99.0
    np.testing.assert_array_equal(attend(block, **arguments)[0][:, :3], output[:, :3])


@slow
@given(attention_configs(), st.integers(1, 4), SEEDS)
def test_a_window_hides_distant_keys(config, window, seed):
    config = dataclasses.replace(config, sliding_window=window)
    arguments = arguments_of(config, seed, q_seq_len=6, kv_seq_len=8)
    _, attn_weights = attend(block_of(config, seed), **arguments)
    distance = np.abs(np.arange(6)[:, None] - np.arange(8))
    assert not attn_weights[:, :, distance >= window].any()
    assert (attn_weights[:, :, distance == 0] > 0).all()


@slow
@given(attention_configs(), SEEDS)
def test_padding_has_no_effect(config, seed):
    if config.rotary is not None and config.rotary.depends_on_length:
        return  # padding has an effect there: see highest_position
    block = block_of(config, seed)
    arguments = arguments_of(config, seed, q_seq_len=4, kv_seq_len=7)
    output, attn_weights = attend(block, **arguments, kv_lengths=[5, 5])
    shorter = arguments | {name: arguments[name][:, :5] for name in ("key", "value")}
    expected_output, expected_weights = attend(block, **shorter)
    np.testing.assert_allclose(output, expected_output, **EXACTLY)
    np.testing.assert_allclose(attn_weights[..., :5], expected_weights, **EXACTLY)
    assert not attn_weights[..., 5:].any()


@slow
@given(attention_calls(), st.randoms(use_true_random=False))
def test_sequences_do_not_see_each_other(call, random):
    block, arguments = call
    batch_size = len(arguments["query"])
    order = random.sample(range(batch_size), batch_size)
    output, attn_weights = attend(block, **arguments)

    def reordered(name, array):
        per_sequence = {"query": 3, "key": 3, "value": 3, "attn_mask": 4, "kv_lengths": 1}
        if array.ndim == per_sequence.get(name, 2) and len(array) == batch_size:
            return array[order]
        return array

    moved = {name: reordered(name, array) for name, array in arguments.items()}
    moved_output, moved_weights = attend(block, **moved)
    np.testing.assert_allclose(moved_output, output[order], **EXACTLY)
    np.testing.assert_allclose(moved_weights, attn_weights[order], **EXACTLY)


@slow
@given(attention_configs(has_in_proj=True, has_alibi=False), SEEDS)
def test_reordered_heads_give_reordered_weights_and_the_same_output(config, seed):
    """Move the heads of keys, each with its query heads, in all parameters."""
    block, arguments = block_of(config, seed), arguments_of(config, seed)
    group = config.num_heads // config.num_kv_heads
    kv_order = np.arange(config.num_kv_heads)[::-1]
    order = (kv_order[:, None] * group + np.arange(group)).ravel()
    moved = dict(block.weights)

    def move(name, heads):
        for part in ("weight", "bias"):
            if (array := moved.get(f"{name}.{part}")) is not None:
                split = array.reshape(len(heads), -1, *array.shape[1:])
                moved[f"{name}.{part}"] = split[heads].reshape(array.shape)

    move("q_proj", order)
    move("k_proj", kv_order)
    move("v_proj", kv_order)
    if config.has_out_proj:
        columns = moved["out_proj.weight"].reshape(config.embed_dim, config.num_heads, -1)
        moved["out_proj.weight"] = columns[:, order].reshape(config.embed_dim, -1)
    if config.relative_buckets:
        moved["relative_bias.weight"] = moved["relative_bias.weight"][:, order]
    if config.has_sinks:
        moved["sinks"] = moved["sinks"][order]

    output, attn_weights = attend(block, **arguments)
    other = AttentionBlock(config=config, weights=moved, provenance=block.provenance)
    moved_output, moved_weights = attend(other, **arguments)
    np.testing.assert_allclose(moved_weights, attn_weights[:, order], **EXACTLY)
    if not config.has_out_proj:
        heads = output.reshape(*output.shape[:2], config.num_heads, -1)
        output = heads[:, :, order].reshape(output.shape)
    np.testing.assert_allclose(moved_output, output, **EXACTLY)


@slow
@given(attention_configs(has_in_proj=True), SEEDS)
def test_shared_heads_equal_copied_heads(config, seed):
    block, arguments = block_of(config, seed), arguments_of(config, seed, mask="bool")
    group = config.num_heads // config.num_kv_heads
    repeated = dict(block.weights)
    for name in ("k_proj", "v_proj"):
        for part in ("weight", "bias"):
            if (array := repeated.get(f"{name}.{part}")) is not None:
                split = array.reshape(config.num_kv_heads, -1, *array.shape[1:])
                copies = np.repeat(split, group, axis=0)
                repeated[f"{name}.{part}"] = copies.reshape(-1, *array.shape[1:])
    own = dataclasses.replace(config, num_kv_heads=config.num_heads)
    other = AttentionBlock(config=own, weights=repeated, provenance=block.provenance)
    for result, expected in zip(
        attend(other, **arguments), attend(block, **arguments), strict=True
    ):
        np.testing.assert_allclose(result, expected, **EXACTLY)


@slow
@given(st.data(), st.integers(1, 500), SEEDS)
def test_rotation_depends_on_differences_of_positions_only(data, shift, seed):
    rotary = data.draw(rotaries(8, [s for s in SCALINGS if s not in {"dynamic", "longrope"}]))
    config = data.draw(attention_configs(head_dim=8, rotary=rotary))
    block = block_of(config, seed)
    arguments = arguments_of(config, seed, q_seq_len=4, kv_seq_len=6)
    arguments |= {"positions": np.array([3, 0, 2, 9]), "key_positions": np.arange(6)}
    scores = attend_stages(block, **arguments).scores
    for name in ("positions", "key_positions"):
        arguments[name] = arguments[name] + shift
    # angles are float32: at position 500 they are rounded by up to 1.5e-5 radians
    shifted = attend_stages(block, **arguments).scores
    np.testing.assert_allclose(shifted, scores, rtol=0, atol=2e-3)


@slow
@given(attention_configs(), SEEDS)
def test_default_positions_count_from_zero_and_keys_follow_queries(config, seed):
    block = block_of(config, seed)
    arguments = arguments_of(config, seed, q_seq_len=4, kv_seq_len=6)
    spelt_out = arguments | {"positions": np.arange(4), "key_positions": np.arange(6)[None]}
    np.testing.assert_array_equal(attend(block, **spelt_out)[0], attend(block, **arguments)[0])
    if takes_itself(config):
        alone = {"query": arguments["query"], "positions": np.array([7, 1, 1, 2])}
        both = alone | {"key": alone["query"], "key_positions": alone["positions"]}
        np.testing.assert_array_equal(attend(block, **both)[0], attend(block, **alone)[0])


def test_alibi_falls_with_distance_by_each_heads_slope():
    config = AttentionConfig(embed_dim=16, num_heads=4, has_alibi=True)
    block = block_of(config, 1)
    zeros = with_weights(
        block,
        q_proj__weight=np.zeros_like(block.weights["q_proj.weight"]),
        q_proj__bias=np.zeros(16),
    )
    masked = attend_stages(zeros, np.ones((1, 6, 16))).masked[0]
    distance = np.abs(np.arange(6)[:, None] - np.arange(6))
    slopes = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])
    np.testing.assert_allclose(masked, -slopes[:, None, None] * distance)
    weights = attend(zeros, np.ones((1, 6, 16)))[1][0]
    assert (np.diff(weights[:, 0]) < 0).all()


@slow
@given(attention_calls(attention_configs(softcap=2.0)))
def test_soft_capped_scores_are_bounded_and_keep_their_order(call):
    block, arguments = call
    plain = dataclasses.replace(block.config, softcap=0.0)
    uncapped = attend_stages(with_weights(block, plain), **arguments).scores
    capped = attend_stages(block, **arguments).scores
    assert (np.abs(capped) <= 2.0).all()
    assert (np.sign(capped) == np.sign(uncapped)).all()
    assert (np.abs(capped) <= np.abs(uncapped)).all()
    np.testing.assert_allclose(
        np.arctanh(capped / 2.0)[np.abs(capped) < 1.99] * 2.0,
        uncapped[np.abs(capped) < 1.99],
        rtol=1e-6,
    )


@slow
@given(attention_calls(attention_configs(has_alibi=False, relative_buckets=0), ["", "bool"]))
def test_masks_do_not_change_scores_of_visible_keys(call):
    block, arguments = call
    stages = attend_stages(block, **arguments)
    seen = stages.masked > -np.inf
    np.testing.assert_array_equal(stages.masked[seen], stages.scores[seen])


@pytest.mark.parametrize(("precision", "at_most"), [("float16", 0.002), ("int8", 0.04)])
def test_the_error_of_lower_precisions_is_small(precision, at_most):
    config = AttentionConfig(embed_dim=16, num_heads=4)
    block, narrow = block_of(config, 3), dataclasses.replace(config, precision=precision)
    query = arguments_of(config, 3)["query"]
    exact, rough = attend(block, query)[0], attend(with_weights(block, narrow), query)[0]
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < at_most


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_heads_of_another_width_are_refused(name):
    config = AttentionConfig(
        embed_dim=16, num_heads=4, num_kv_heads=2, has_in_proj=False, has_out_proj=False
    )
    arguments = arguments_of(config, 1)
    arguments[name] = np.concatenate([arguments[name]] * 2, axis=-1)
    with pytest.raises(ValueError, match="reshape"):
        attend(block_of(config, 1), **arguments)
