"""Running by length gives what masking the padding would have given."""

from __future__ import annotations

import hypothesis
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import strategies as st

from polyhead_models import reference
from polyhead_server.call import AttentionInputs, WeightsSelection
from polyhead_server.lengths import run_by_length

ALL = WeightsSelection((), ())


class Runner:
    """Runs a real model, and counts what it is asked."""

    def __init__(self, model):
        self.model = model
        self.calls = []

    def __call__(self, inputs):
        self.calls.append(inputs)
        assert inputs.kv_lengths is None
        return self.model.run_once(inputs, ort.RunOptions())


def run(model, inputs):
    runner = Runner(model)
    return run_by_length(inputs, model.config, runner), runner


def inputs_of(config, batch_size, q_seq_len, kv_seq_len, rng, **others):
    def embeddings(length, width):
        return rng.standard_normal((batch_size, length, width)).astype(np.float32)

    given = {"attn_mask": None, "kv_lengths": None, "weights": ALL} | others
    if given["kv_lengths"] is not None:
        given["kv_lengths"] = np.array(given["kv_lengths"], np.int64)
    return AttentionInputs(
        query=embeddings(q_seq_len, config.embed_dim),
        key=embeddings(kv_seq_len, config.kdim),
        value=embeddings(kv_seq_len, config.vdim),
        **given,
    )


@st.composite
def cases(draw):
    batch_size, q_seq_len, kv_seq_len = (draw(st.integers(1, 5)) for _ in range(3))
    lengths = draw(st.lists(st.integers(0, kv_seq_len), min_size=batch_size, max_size=batch_size))
    mask_axes = None
    if draw(st.booleans()):
        mask_axes = [  # each axis there, or broadcast
            draw(st.sampled_from([1, size])) for size in (batch_size, 2, q_seq_len, kv_seq_len)
        ]
    name = draw(st.sampled_from(["plain", "causal", "cross"]))
    return name, (batch_size, q_seq_len, kv_seq_len), lengths, mask_axes, draw(st.booleans())


@hypothesis.settings(max_examples=120, deadline=None)
@hypothesis.given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_agrees_with_the_reference(models, blocks, case, seed):
    name, sizes, lengths, mask_axes, need_weights = case
    rng = np.random.default_rng(seed)
    mask = None
    if mask_axes is not None:
        numbers = rng.standard_normal(mask_axes)
        mask = np.where(rng.random(mask_axes) < 0.6, numbers, -np.inf).astype(np.float32)
    inputs = inputs_of(
        blocks[name].config,
        *sizes,
        rng,
        attn_mask=mask,
        kv_lengths=lengths,
        weights=ALL if need_weights else None,
    )

    outputs, runner = run(models[name], inputs)

    output, attn_weights = reference.attend(
        blocks[name], inputs.query, inputs.key, inputs.value, attn_mask=mask, kv_lengths=lengths
    )
    np.testing.assert_allclose(outputs.output, output, rtol=0, atol=2e-5)
    assert len(runner.calls) == len(set(lengths))
    if need_weights:
        np.testing.assert_allclose(outputs.attn_weights, attn_weights, rtol=0, atol=1e-5)
        for row, length in enumerate(lengths):
            assert not outputs.attn_weights[row, :, :, length:].any()
    else:
        assert outputs.attn_weights is None


def test_a_sequence_without_keys_gets_zeros_and_leaves_its_neighbour_alone(models, blocks):
    rng = np.random.default_rng(0)
    inputs = inputs_of(blocks["plain"].config, 2, 3, 4, rng, kv_lengths=[0, 4])
    outputs, _ = run(models["plain"], inputs)
    bias = blocks["plain"].weights["out_proj.bias"]
    np.testing.assert_allclose(outputs.output[0], np.tile(bias, (3, 1)), atol=1e-6)
    assert not outputs.attn_weights[0].any()
    np.testing.assert_allclose(outputs.attn_weights[1].sum(axis=-1), 1, atol=1e-6)


def test_padding_has_no_influence_not_even_as_nan(models, blocks):
    rng = np.random.default_rng(1)
    inputs = inputs_of(blocks["plain"].config, 2, 3, 4, rng, kv_lengths=[2, 3])
    before, _ = run(models["plain"], inputs)
    inputs.key[0, 2:] = inputs.value[0, 2:] = inputs.key[1, 3:] = inputs.value[1, 3:] = np.nan
    after, _ = run(models["plain"], inputs)
    np.testing.assert_array_equal(before.output, after.output)
    np.testing.assert_array_equal(before.attn_weights, after.attn_weights)


@pytest.mark.parametrize(
    ("name", "lengths", "is_fused"),
    [
        ("plain", [4, 2], True),
        ("plain", [4, 0], False),
        ("causal", [4, 4], True),
        ("causal", [4, 2], False),  # fewer keys than queries
    ],
)
def test_says_whether_every_part_ran_fused(models, blocks, name, lengths, is_fused):
    rng = np.random.default_rng(2)
    config = blocks[name].config
    inputs = inputs_of(config, 2, 4, 4, rng, kv_lengths=lengths, weights=None)
    outputs, _ = run(models[name], inputs)
    assert outputs.is_fused == is_fused


def test_selects_heads_and_queries_in_the_order_wanted(models, blocks):
    rng = np.random.default_rng(3)
    config = blocks["plain"].config
    inputs = inputs_of(config, 2, 3, 4, rng, kv_lengths=[1, 4])
    everything, _ = run(models["plain"], inputs)
    chosen = AttentionInputs(
        inputs.query,
        inputs.key,
        inputs.value,
        inputs.attn_mask,
        inputs.kv_lengths,
        WeightsSelection(heads=(1,), queries=(2, 0)),
    )
    outputs, _ = run(models["plain"], chosen)
    np.testing.assert_array_equal(
        outputs.attn_weights, everything.attn_weights[:, [1]][:, :, [2, 0]]
    )
