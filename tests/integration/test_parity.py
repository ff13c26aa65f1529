"""What is served is what was recorded, and what the float64 reference says: over real gRPC."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from configs import MAX_SEQ_LEN, arguments_of, takes_itself
from golden import recorded_modules
from hypothesis import strategies as st
from minilm import MINILM, needs_minilm
from variants import VARIANTS

import polyhead
from polyhead_models.checkpoint.checkpoint import load_checkpoint
from polyhead_models.graph import build_model
from polyhead_models.reference import attention as reference
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


MODULES = recorded_modules()


@pytest.fixture(scope="module")
def recorded_client(tmp_path_factory):
    """A client of a server that serves every recorded module, by its name."""
    repository = tmp_path_factory.mktemp("recorded")
    for number, module in enumerate(MODULES):
        write_model(repository, f"m{number}", build_model(module.load()))
    with running_server(repository, threads=1) as server, polyhead.Client(server.target) as client:
        yield client


@pytest.mark.parametrize("number", range(len(MODULES)), ids=map(str, MODULES))
def test_recorded_modules_of_real_model_families(recorded_client, number):
    module = MODULES[number]
    arguments = {"model": f"m{number}", "key": module.key, "attn_mask": module.attn_mask}
    arguments["positions"] = module.positions
    result = recorded_client.attend(module.query, need_weights=True, **arguments)
    assert_weights(result.attn_weights, module.attn_weights)
    assert_output(result.output, module.output)
    plain = recorded_client.attend(module.query, **arguments)
    assert plain.attn_weights is None
    assert_output(plain.output, module.output)
    if forbids_what_the_block_does(module.attn_mask, module.load().config):
        unmasked = recorded_client.attend(module.query, **arguments | {"attn_mask": None})
        assert_output(unmasked.output, module.output)


def forbids_what_the_block_does(mask, config):
    """Whether a recorded mask holds the block's own causality and window, and nothing else."""
    if mask is None:
        return False
    distance = np.arange(mask.shape[-1]) - np.arange(mask.shape[-2])[:, np.newaxis]
    visible = np.abs(distance) < (config.sliding_window or np.inf)
    if config.is_causal:
        visible &= distance <= 0
    lowest = np.finfo(np.float32).min
    return bool((np.where(visible, mask == 0, mask <= lowest)).all())


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
    """A served model, and arguments that fit it."""
    name = draw(st.sampled_from([*VARIANTS, "no-bias"]))
    config = VARIANTS.get(name, VARIANTS["plain"])
    lengths = st.integers(1, MAX_SEQ_LEN)
    return name, arguments_of(
        config,
        draw(st.integers(0, 2**32 - 1)),
        batch_size=draw(st.integers(1, 3)),
        q_seq_len=draw(lengths),
        kv_seq_len=draw(lengths),
        is_self=takes_itself(config) and draw(st.booleans()),
        mask=draw(st.sampled_from(["", "bool", "float"])),
        has_lengths=draw(st.booleans()),
        has_positions=draw(st.booleans()),
    )


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(drawn=calls(), need_weights=st.booleans())
def test_served_blocks_agree_with_the_reference(client, blocks, drawn, need_weights):
    name, arguments = drawn
    result = client.attend(model=name, need_weights=need_weights, **arguments)
    output, attn_weights = reference.attend(blocks[name], **arguments)

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
        query, model="plain", need_weights=polyhead.Weights(heads=(3, 0), queries=(5, 1, 2))
    )
    assert chosen.attn_weights.shape == (2, 2, 3, 6)
    assert_weights(chosen.attn_weights, everything.attn_weights[:, [3, 0]][:, :, [5, 1, 2]])
    assert_output(chosen.output, everything.output)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_blocks_of_lower_precision_are_as_exact_as_they_say(
    client, blocks, precision, dtype, need_weights
):
    model = client.model(precision)
    assert model.spec.precision == precision
    stated = model.provenance.precision_error
    assert stated == blocks[precision].provenance.precision_error
    assert 0 < stated < {"float16": 2e-3, "int8": 3e-2}[precision]
    exact = replace(
        blocks[precision], config=replace(blocks[precision].config, precision="float32")
    )
    query = np.random.default_rng(6).standard_normal((2, 40, 64)).astype(dtype)
    output, attn_weights = reference.attend(exact, query)

    selection = polyhead.Weights(heads=(3, 1), stage="weights") if need_weights else False
    result = client.attend(query, model=precision, output_dtype="float32", need_weights=selection)

    error = np.linalg.norm(result.output - output) / np.linalg.norm(output)
    assert error < 2 * stated
    if need_weights:
        np.testing.assert_allclose(result.attn_weights, attn_weights[:, [3, 1]], atol=5 * stated)


def test_numbers_beyond_a_block_s_float16_are_refused_and_not_made_infinite(client):
    query = np.full((1, 3, 64), 1e5, np.float32)
    with pytest.raises(polyhead.InvalidArgumentError, match="beyond float16"):
        client.attend(query, model="float16")
