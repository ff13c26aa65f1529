"""The vectors of chosen heads equal the reference's, and cost no more runs than they need."""

from __future__ import annotations

import numpy as np
import pytest
from attention_graphs import PLENTY, Graph, inputs_of
from configs import attention_calls
from hypothesis import given, settings
from hypothesis import strategies as st

from polyhead_models.config import AttentionConfig
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages
from polyhead_models.rotary import Rotary
from polyhead_server.call import WeightsSelection
from polyhead_server.head_vectors import KINDS, VectorsSelection


@st.composite
def selections(draw, num_heads, q_seq_len, kv_seq_len):
    def some(values):
        chosen = draw(st.permutations(values))
        return tuple(chosen[: draw(st.integers(1, len(chosen)))]) if draw(st.booleans()) else ()

    return VectorsSelection(
        kinds=some(KINDS) or KINDS,
        heads=some(range(num_heads)),
        queries=some(range(q_seq_len)),
        keys=some(range(kv_seq_len)),
    )


def expected_vectors(stages, config, selection, kv_lengths):
    """What a selection is of the reference's heads; keys and values of padding are zeros."""
    expected = {}
    for kind in selection.kinds:
        array = getattr(stages, kind)
        heads, rows = list(selection.heads), list(selection.queries)
        if kind in ("key", "value"):
            heads = [head // (config.num_heads // config.num_kv_heads) for head in heads]
            rows = list(selection.keys)
            if kv_lengths is not None:
                is_padding = np.arange(array.shape[2]) >= np.array(kv_lengths)[:, np.newaxis]
                array = np.where(is_padding[:, np.newaxis, :, np.newaxis], 0, array)
        array = array[:, heads] if heads else array
        expected[kind] = array[:, :, rows] if rows else array
    return expected


def assert_same(vectors, expected):
    assert vectors.keys() == expected.keys()
    for kind, array in expected.items():
        scale = np.abs(array).max(initial=1.0)
        np.testing.assert_allclose(vectors[kind], array, rtol=0, atol=2e-5 * scale)


@settings(max_examples=60)
@given(st.data(), attention_calls(), st.sampled_from([200, 2000, PLENTY]))
def test_vectors_equal_the_references(data, call, max_scores_bytes):
    block, arguments = call
    config, inputs = block.config, inputs_of(block.config, arguments)
    q_seq_len, kv_seq_len = inputs.query.shape[1], inputs.key.shape[1]
    selection = data.draw(selections(config.num_heads, q_seq_len, kv_seq_len))
    weights = data.draw(st.sampled_from([None, WeightsSelection(), WeightsSelection(top_k=1)]))
    need_output = data.draw(st.booleans())
    stages = attend_stages(block, **arguments)
    inputs = inputs_of(
        config, arguments, vectors=selection, weights=weights, need_output=need_output
    )
    outputs = Graph(block).runs_of(inputs, max_scores_bytes).everything()
    assert_same(outputs.vectors, expected_vectors(stages, config, selection, inputs.kv_lengths))
    assert (outputs.output is not None, outputs.attn_weights is not None) == (
        need_output,
        weights is not None,
    )


def test_contexts_come_after_weights_in_blocks_which_have_projected_the_keys():
    config = AttentionConfig(embed_dim=16, num_heads=2, rotary=Rotary(dim=8))
    block = random_block(config, seed=1)
    arguments = {"query": np.random.default_rng(0).standard_normal((2, 6, 16), np.float32)}
    inputs = inputs_of(
        config,
        arguments,
        vectors=VectorsSelection(("query", "key", "context")),
        weights=WeightsSelection(top_k=1),
        need_output=False,
    )
    outputs = Graph(block).runs_of(inputs, max_scores_bytes=100).everything()
    stages = attend_stages(block, **arguments)
    assert_same(outputs.vectors, expected_vectors(stages, config, inputs.vectors, None))


def runs(selection, **others):
    """The outputs that each run is asked for, and the shapes of its query and key."""
    config = AttentionConfig(embed_dim=8, num_heads=2)
    query = np.ones((3, 6, 8), np.float32)
    graph = Graph(random_block(config, seed=1))
    inputs = inputs_of(config, {"query": query}, vectors=selection, **others)
    graph.runs_of(inputs).everything()
    return [(names, shapes["query"][1], shapes["key"][1]) for names, shapes in graph.runs]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("query",), [(["projected_query"], 6, 1)]),
        (("key",), [(["projected_key", "projected_value"], 1, 6)]),
        (("context",), [(["context"], 6, 6)]),
        (
            ("query", "key", "value", "context"),
            [(["projected_query", "context", "projected_key", "projected_value"], 6, 6)],
        ),
    ],
)
def test_vectors_alone_take_one_run_of_no_more_than_they_need(kinds, expected):
    assert runs(VectorsSelection(kinds), need_output=False) == expected


def test_the_outputs_run_gives_the_vectors_too():
    names = ["output", "projected_query", "context", "projected_key", "projected_value"]
    assert runs(VectorsSelection(KINDS)) == [(names, 6, 6)]


def test_only_selected_rows_are_computed_without_output():
    selection = VectorsSelection(("query", "context"), queries=(4, 1))
    assert runs(selection, need_output=False) == [(["projected_query", "context"], 2, 6)]
