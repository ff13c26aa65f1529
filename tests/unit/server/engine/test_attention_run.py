"""Groups by key length, blocks of rows and selected weights equal the reference of the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attention_graphs import PLENTY, Graph, inputs_of
from configs import attention_calls
from hypothesis import given, settings
from hypothesis import strategies as st

from polyhead_models.config import AttentionConfig
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages
from polyhead_server.call import Stage, WeightsSelection

ALL = WeightsSelection()


@st.composite
def selections(draw, num_heads, q_seq_len):
    def some(count):
        chosen = draw(st.permutations(range(count)))
        return tuple(chosen[: draw(st.integers(1, count))]) if draw(st.booleans()) else ()

    return WeightsSelection(
        heads=some(num_heads),
        queries=some(q_seq_len),
        top_k=draw(st.sampled_from([0, 0, 1, 4])),
        average_heads=draw(st.booleans()),
        stage=draw(st.sampled_from(list(Stage))),
    )


def expected_weights(stages, inputs, selection):
    """What a selection is of the reference's matrices."""
    chosen = {
        Stage.WEIGHTS: stages.attn_weights,
        Stage.SCORES: stages.scores,
        Stage.MASKED: stages.masked,
    }[selection.stage]
    if inputs.kv_lengths is not None and selection.stage != Stage.WEIGHTS:
        padding = np.arange(chosen.shape[-1]) >= inputs.kv_lengths[:, np.newaxis]
        chosen = np.where(padding[:, np.newaxis, np.newaxis], -np.inf, chosen)
    if selection.heads:
        chosen = chosen[:, list(selection.heads)]
    if selection.queries:
        chosen = chosen[:, :, list(selection.queries)]
    return chosen.mean(axis=1, keepdims=True) if selection.average_heads else chosen


def assert_same(given, expected):
    np.testing.assert_array_equal(np.isneginf(given), np.isneginf(expected))
    finite = np.isfinite(expected)
    scale = np.abs(expected[finite]).max(initial=1.0)
    np.testing.assert_allclose(given[finite], expected[finite], rtol=0, atol=2e-5 * scale)


def assert_selected(outputs, expected, top_k):
    if not top_k:
        assert_same(outputs.attn_weights, expected)
        assert outputs.top_keys is None
        return
    assert_same(outputs.attn_weights, -np.sort(-expected, axis=-1)[..., :top_k])
    assert_same(np.take_along_axis(expected, outputs.top_keys, -1), outputs.attn_weights)
    assert (np.diff(np.sort(outputs.top_keys, axis=-1), axis=-1) > 0).all()


CALLS = attention_calls(masks=("", "bool", "float"))


def limits(config, inputs):
    """Draw a limit that admits the whole matrix, a part of it, or one row of one sequence."""
    row = 4 * config.num_heads * inputs.key.shape[1]
    return st.sampled_from([PLENTY, row * inputs.query.shape[1], 3 * row, row])


@settings(max_examples=70)
@given(call=CALLS, data=st.data())
def test_agrees_with_the_reference_within_any_limit(call, data):
    block, arguments = call
    stages, graph = attend_stages(block, **arguments), Graph(block)
    inputs = inputs_of(block.config, arguments)
    limit = data.draw(limits(block.config, inputs))

    outputs = graph.runs_of(inputs, limit).everything()
    assert_same(outputs.output, stages.output)
    assert outputs.attn_weights is None

    outputs = graph.runs_of(replace(inputs, weights=ALL), limit).everything()
    assert_same(outputs.output, stages.output)
    assert_same(outputs.attn_weights, stages.attn_weights)

    selection = data.draw(selections(block.config.num_heads, inputs.query.shape[1]))
    need_output = data.draw(st.booleans())
    wanted = replace(inputs, weights=selection, need_output=need_output)
    outputs = graph.runs_of(wanted, limit).everything()
    assert_selected(outputs, expected_weights(stages, inputs, selection), selection.top_k)
    if need_output:
        assert_same(outputs.output, stages.output)
    else:
        assert outputs.output is None
    assert graph.largest_matrix <= limit


@settings(max_examples=60)
@given(call=CALLS, data=st.data(), rows_per_block=st.integers(1, 5))
def test_blocks_of_rows_joined_are_the_whole(call, data, rows_per_block):
    block, arguments = call
    stages, graph = attend_stages(block, **arguments), Graph(block)
    inputs = inputs_of(block.config, arguments)
    selection = data.draw(st.just(ALL) | selections(block.config.num_heads, inputs.query.shape[1]))
    wanted = replace(inputs, weights=selection, need_output=data.draw(st.booleans()))
    limit = data.draw(limits(block.config, inputs))
    rows = list(selection.queries) or list(range(inputs.query.shape[1]))
    expected = expected_weights(stages, inputs, selection)

    done = 0
    runs = graph.runs_of(wanted, limit)
    assert runs.selected_rows.tolist() == rows
    while done < len(rows):
        outputs = runs.block(runs.selected_rows[done : done + rows_per_block])
        count = outputs.attn_weights.shape[2]
        assert count == min(rows_per_block, len(rows) - done)
        assert_selected(outputs, expected[:, :, done : done + count], selection.top_k)
        if wanted.need_output:
            assert_same(outputs.output, stages.output[:, rows[done : done + count]])
        done += count
    assert done == len(rows)


@pytest.fixture(scope="module")
def plain():
    return Graph(random_block(AttentionConfig(embed_dim=8, num_heads=2), seed=3))


@pytest.fixture(scope="module")
def causal():
    return Graph(random_block(AttentionConfig(embed_dim=16, num_heads=2, is_causal=True), seed=3))


def call_of(graph, batch_size=2, q_seq_len=4, kv_seq_len=4, lengths=None, **others):
    rng = np.random.default_rng(0)
    config = graph.config
    graph.runs.clear()
    arguments = {
        name: rng.standard_normal((batch_size, seq_len, width)).astype(np.float32)
        for name, seq_len, width in (
            ("query", q_seq_len, config.embed_dim),
            ("key", kv_seq_len, config.kdim),
            ("value", kv_seq_len, config.vdim),
        )
    }
    return inputs_of(config, arguments | {"kv_lengths": lengths}, **others)


@pytest.mark.parametrize(
    ("name", "lengths", "is_fused"),
    [
        ("plain", [4, 2], True),
        ("plain", [4, 0], False),
        ("causal", [4, 4], True),
        ("causal", [4, 2], False),  # fewer keys than queries
    ],
)
def test_is_fused_only_if_every_group_ran_fused(request, name, lengths, is_fused):
    graph = request.getfixturevalue(name)
    outputs = graph.runs_of(call_of(graph, lengths=lengths)).everything()
    assert outputs.is_fused == is_fused
    assert len(graph.runs) == len(set(lengths))


def test_a_plain_call_is_one_run_with_its_arrays_alone(plain):
    plain.runs_of(call_of(plain)).everything()
    assert plain.runs == [(["output"], {"query": (2, 4, 8), "key": (2, 4, 8), "value": (2, 4, 8)})]


def test_whole_weights_are_one_run(plain):
    outputs = plain.runs_of(call_of(plain, weights=ALL)).everything()
    assert [names for names, _ in plain.runs] == [["output", "attn_weights"]]
    assert not outputs.is_fused


def test_one_row_of_weights_costs_one_row_and_the_output_stays_fused(plain):
    selection = WeightsSelection(queries=(3,), heads=(1,))
    outputs = plain.runs_of(call_of(plain, kv_seq_len=9, weights=selection)).everything()
    assert outputs.is_fused
    assert outputs.attn_weights.shape == (2, 1, 1, 9)
    (_, fused), (names, row) = plain.runs
    assert fused["query"] == (2, 4, 8)
    assert names == ["attn_weights"]
    assert row["query"] == (2, 1, 8)
    assert row["heads"] == (1,)
    assert row["key"] == (2, 0, 8)  # not projected a second time
    assert row["past_key"] == (2, 2, 9, 4)


def test_without_the_output_values_are_not_projected(plain):
    selection = WeightsSelection(queries=(3,))
    inputs = call_of(plain, kv_seq_len=9, weights=selection, need_output=False)
    outputs = plain.runs_of(inputs).everything()
    assert outputs.output is None
    assert not outputs.is_fused
    ((names, shapes),) = plain.runs
    assert names == ["attn_weights"]
    assert shapes["query"] == (2, 1, 8)
    assert shapes["key"] == (2, 9, 8)
    assert shapes["value"] == (2, 0, 8)


def test_keys_are_projected_once_for_all_blocks(plain):
    inputs = call_of(plain, batch_size=1, weights=ALL)
    runs = plain.runs_of(inputs)
    for row in runs.selected_rows:
        runs.block(np.array([row]))
    projected, *blocks = plain.runs
    assert projected[0] == ["projected_key", "projected_value"]
    assert len(blocks) == 4
    assert all(shapes["key"][1] == shapes["value"][1] == 0 for _, shapes in blocks)


def test_padding_has_no_influence_even_if_it_is_nan(plain):
    inputs = call_of(plain, lengths=[2, 3], weights=ALL)
    before = plain.runs_of(inputs).everything()
    inputs.key[0, 2:] = inputs.value[0, 2:] = inputs.key[1, 3:] = inputs.value[1, 3:] = np.nan
    after = plain.runs_of(inputs).everything()
    np.testing.assert_array_equal(before.output, after.output)
    np.testing.assert_array_equal(before.attn_weights, after.attn_weights)
