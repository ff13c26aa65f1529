"""What is served is what was recorded, and what the float64 reference says: over real gRPC."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from minilm import MINILM, needs_minilm

import polyhead
from polyhead_models import reference
from polyhead_models.checkpoint import load_checkpoint
from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.running import running_server

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
WEIGHTS_ATOL = 1e-5
OUTPUT_RTOL = 2e-5


def assert_output(actual, expected, rtol=OUTPUT_RTOL):
    """Within a share of the largest magnitude."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.abs(expected).max())


def assert_weights(actual, expected, atol=WEIGHTS_ATOL):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_recorded_checkpoint_layers(client, blocks, family, layer, need_weights):
    recorded = np.load(GOLDEN / family / "golden.npz")
    module = {
        "bert": "encoder.layer.{}.attention.self",
        "distilbert": "transformer.layer.{}.attention",
    }
    path = module[family].format(layer)
    hidden_states = recorded[f"{path}|hidden_states"]
    expected = recorded[f"{path}|attn_output"].astype(np.float64)
    if family == "bert":
        # BERT's module stops before the output projection, which is part of our block
        weights = blocks[f"bert-{layer}"].weights
        expected = expected @ weights["out_proj.weight"].T + weights["out_proj.bias"]

    result = client.attend(hidden_states, model=f"{family}-{layer}", need_weights=need_weights)

    assert_output(result.output, expected)
    if need_weights:
        assert_weights(result.attn_weights, recorded[f"{path}|attn_weights"])
    else:
        assert result.attn_weights is None
        assert result.execution.kernel == "fused"


def test_block_without_output_projection_gives_the_context(client):
    recorded = np.load(GOLDEN / "bert" / "golden.npz")
    path = "encoder.layer.0.attention.self"
    result = client.attend(recorded[f"{path}|hidden_states"], model="bert-contexts")
    assert_output(result.output, recorded[f"{path}|attn_output"])


@needs_minilm
@pytest.mark.parametrize("layer", [0, 5])
def test_real_minilm(tmp_path, layer):
    recorded = np.load(GOLDEN / "minilm_river_bank.npz")
    block = load_checkpoint(MINILM, layer)
    write_model(tmp_path, "minilm", build_model(block))

    with running_server(tmp_path) as server, polyhead.Client(server.target) as client:
        hidden_states = recorded[f"layer{layer}.hidden_states"]
        result = client.attend(hidden_states, model="minilm", need_weights=True)
        fused = client.attend(hidden_states, model="minilm")

    assert_weights(result.attn_weights, recorded[f"layer{layer}.attn_weights"])
    assert_output(result.output, recorded[f"layer{layer}.attn_output"])
    assert_output(fused.output, recorded[f"layer{layer}.attn_output"])
    if layer == 0:
        tokens = list(recorded["tokens"][0])
        bank, river = tokens.index("bank"), tokens.index("river")
        assert result.attn_weights[0, 2, bank, river] == pytest.approx(1.0, abs=0.005)
        assert result.attn_weights[0, 4, bank, river] == pytest.approx(0.85, abs=0.005)


@st.composite
def calls(draw):
    """A model and arguments that fit it: shapes, masks, lengths and what is wanted are drawn."""
    name = draw(
        st.sampled_from(["plain", "causal", "causal-narrow", "cross", "wide-heads", "no-bias"])
    )
    batch_size, q_seq_len, kv_seq_len = (draw(st.integers(1, n)) for n in (3, 9, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    is_self = name != "cross" and draw(st.booleans())
    if is_self:
        kv_seq_len = q_seq_len
    mask = None
    if draw(st.booleans()):
        axes = (batch_size, "heads", q_seq_len, kv_seq_len)
        keep = draw(st.lists(st.booleans(), min_size=4, max_size=4))
        first = draw(st.integers(0, 3))
        mask = (
            tuple(a if k else 1 for a, k in zip(axes, keep, strict=True))[first:],
            draw(st.booleans()),
        )
    lengths = None
    if draw(st.booleans()):
        lengths = draw(
            st.lists(st.integers(0, kv_seq_len), min_size=batch_size, max_size=batch_size)
        )
    return name, batch_size, q_seq_len, kv_seq_len, is_self, mask, lengths, draw(st.booleans()), rng


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(drawn=calls())
def test_served_blocks_agree_with_the_reference(client, blocks, drawn):
    name, batch_size, q_seq_len, kv_seq_len, is_self, mask, lengths, need_weights, rng = drawn
    block = blocks[name]
    config = block.config

    def embeddings(length, width):
        return rng.standard_normal((batch_size, length, width)).astype(np.float32)

    query = embeddings(q_seq_len, config.embed_dim)
    arguments = {}
    if not is_self:
        arguments["key"] = embeddings(kv_seq_len, config.kdim)
        if config.kdim != config.vdim or rng.random() < 0.5:
            arguments["value"] = embeddings(kv_seq_len, config.vdim)
    if mask is not None:
        shape, is_bool = mask
        shape = tuple(config.num_heads if axis == "heads" else axis for axis in shape)
        allowed = rng.random(shape) < 0.6  # whole rows are forbidden often
        numbers = rng.standard_normal(shape).astype(np.float32)
        arguments["attn_mask"] = allowed if is_bool else np.where(allowed, numbers, -np.inf)
    if lengths is not None:
        arguments["kv_lengths"] = lengths

    result = client.attend(query, model=name, need_weights=need_weights, **arguments)
    output, attn_weights = reference.attend(block, query, **arguments)

    assert_output(result.output, output)
    if need_weights:
        assert_weights(result.attn_weights, attn_weights)
        forbidden = attn_weights.sum(axis=-1) == 0
        assert not result.attn_weights[forbidden].any()
    else:
        assert result.attn_weights is None


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_query_that_may_attend_to_nothing_gets_zeros(client, blocks, need_weights):
    rng = np.random.default_rng(1)
    query = rng.standard_normal((2, 5, 16)).astype(np.float32)
    attn_mask = np.ones((2, 1, 5, 5), dtype=bool)
    attn_mask[0, 0, 3] = False

    result = client.attend(query, model="plain", attn_mask=attn_mask, need_weights=need_weights)

    # a context of zeros leaves the output projection's bias alone
    bias = blocks["plain"].weights["out_proj.bias"]
    np.testing.assert_allclose(result.output[0, 3], bias, atol=1e-6)
    if need_weights:
        assert not result.attn_weights[0, :, 3].any()
        np.testing.assert_allclose(result.attn_weights[1].sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float16", 2e-3), ("bfloat16", 2e-2), ("float32", 2e-5), ("float64", 2e-5)]
)
def test_dtypes_in_and_out(client, blocks, dtype, rtol):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numpy_dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    query = np.random.default_rng(2).standard_normal((1, 6, 16)).astype(numpy_dtype)
    expected, _ = reference.attend(blocks["plain"], query.astype(np.float64))

    answered = client.attend(query, model="plain", need_weights=True)
    assert answered.output.dtype == numpy_dtype
    assert answered.attn_weights.dtype == numpy_dtype
    assert_output(answered.output.astype(np.float64), expected, rtol)

    asked = client.attend(query, model="plain", output_dtype="float32")
    assert asked.output.dtype == np.float32
    assert_output(asked.output, expected)  # the inputs are exact in the reference too


def test_weights_of_chosen_heads_and_queries(client):
    query = np.random.default_rng(3).standard_normal((2, 6, 16)).astype(np.float32)
    everything = client.attend(query, model="plain", need_weights=True)
    chosen = client.attend(
        query, model="plain", need_weights=polyhead.AttnWeights(heads=(3, 0), queries=(5, 1, 2))
    )
    assert chosen.attn_weights.shape == (2, 2, 3, 6)
    np.testing.assert_array_equal(
        chosen.attn_weights, everything.attn_weights[:, [3, 0]][:, :, [5, 1, 2]]
    )
    np.testing.assert_array_equal(chosen.output, everything.output)
