"""The ONNX file: one graph, its branches chosen by the documented rule, reproducible bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from configs import attention_calls, attention_configs
from hypothesis import given, settings
from hypothesis import strategies as st
from ort_sessions import loaded

from polyhead_models.blocks import PROVENANCE_KEY, Provenance
from polyhead_models.config import CONFIG_KEY, AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages
from polyhead_models.rotary import Rotary

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

PLAIN = AttentionConfig(embed_dim=16, num_heads=2)
CAUSAL = AttentionConfig(embed_dim=16, num_heads=2, is_causal=True)
CAUSAL_NARROW = AttentionConfig(embed_dim=16, num_heads=4, is_causal=True)
CONFIGS = {
    "plain": PLAIN,
    "causal": CAUSAL,
    "causal-narrow": CAUSAL_NARROW,
    "grouped": AttentionConfig(embed_dim=16, num_heads=4, num_kv_heads=2),
    "grouped-causal": AttentionConfig(
        embed_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, is_causal=True
    ),
    "values-of-other-width": AttentionConfig(embed_dim=16, num_heads=2, v_head_dim=6),
    "values-of-other-width-causal": AttentionConfig(
        embed_dim=16, num_heads=2, v_head_dim=6, is_causal=True
    ),
    "window": AttentionConfig(embed_dim=16, num_heads=2, sliding_window=2),
    "window-causal": AttentionConfig(embed_dim=16, num_heads=2, sliding_window=2, is_causal=True),
    "softcap": AttentionConfig(embed_dim=16, num_heads=2, softcap=2.0),
    "softcap-causal": AttentionConfig(embed_dim=16, num_heads=2, softcap=2.0, is_causal=True),
    "sinks": AttentionConfig(embed_dim=16, num_heads=2, has_sinks=True),
    "sinks-causal": AttentionConfig(embed_dim=16, num_heads=2, has_sinks=True, is_causal=True),
    "rotary": AttentionConfig(embed_dim=16, num_heads=2, rotary=Rotary(dim=4)),
    "norm": AttentionConfig(embed_dim=16, num_heads=2, qk_norm_eps=1e-6),
    "alibi": AttentionConfig(embed_dim=16, num_heads=2, has_alibi=True),
    "alibi-causal": AttentionConfig(embed_dim=16, num_heads=2, has_alibi=True, is_causal=True),
    "relative": AttentionConfig(
        embed_dim=16, num_heads=2, relative_buckets=8, relative_max_distance=6
    ),
    "no-projections": AttentionConfig(
        embed_dim=16, num_heads=2, has_in_proj=False, has_out_proj=False
    ),
}
FUSED = {"MultiHeadAttention", "GroupQueryAttention"}


def session_of(block):
    return loaded(build_model(block))


def feeds_of(
    config, query, key=None, value=None, *, attn_mask=None, positions=None, key_positions=None
):
    """Return all of the graph's inputs for a call, without relying on defaults."""
    key_positions = positions if key is None and key_positions is None else key_positions
    key = query if key is None else key
    value = key if value is None else value
    batch_size = len(query)
    feeds = {
        "query": query,
        "key": key,
        "value": value,
        "past_key": np.zeros((batch_size, config.num_kv_heads, 0, config.head_dim), np.float32),
        "past_value": np.zeros((batch_size, config.num_kv_heads, 0, config.v_head_dim), np.float32),
    }
    if attn_mask is not None:
        mask = np.where(attn_mask, 0, -np.inf) if attn_mask.dtype == bool else attn_mask
        feeds["attn_mask"] = mask.reshape((1,) * (4 - mask.ndim) + mask.shape).astype(np.float32)
    if config.depends_on_index:
        feeds["query_index"] = np.arange(query.shape[1])
    if config.rotary is not None:
        for name, given, array in (
            ("positions", positions, query),
            ("key_positions", key_positions, key),
        ):
            numbers = np.arange(array.shape[1]) if given is None else given
            feeds[name] = np.broadcast_to(numbers, array.shape[:2]).astype(np.int64).copy()
        if config.rotary.depends_on_length:
            highest = max(feeds["positions"].max(), feeds["key_positions"].max())
            feeds["max_position"] = np.array(highest)
    return feeds


def run(session, names, feeds):
    """Run the graph, and return these outputs by name."""
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(given, expected):
    """Compare numbers of order 1, and the positions of minus infinities."""
    np.testing.assert_array_equal(np.isneginf(given), np.isneginf(expected))
    finite = np.isfinite(expected)
    scale = np.abs(expected[finite]).max(initial=1.0)
    np.testing.assert_allclose(given[finite], expected[finite], rtol=0, atol=2e-5 * scale)


CALLS = attention_calls(masks=("", "bool", "float"))
"""Calls without masks of the lowest float, because rounding decides the order of such sums."""


@settings(max_examples=100)
@given(call=CALLS)
def test_all_branches_agree_with_the_reference(call):
    block, arguments = call
    arguments.pop("kv_lengths", None)  # the server slices the keys instead
    session, expected = session_of(block), attend_stages(block, **arguments)
    feeds = feeds_of(block.config, **arguments)
    assert_same(run(session, ["output"], feeds)["output"], expected.output)
    whole = run(session, ["output", "attn_weights"], feeds | {"need_weights": np.array(True)})
    assert_same(whole["output"], expected.output)
    assert_same(whole["attn_weights"], expected.attn_weights)


@settings(max_examples=100)
@given(call=CALLS, data=st.data())
def test_the_instrument_gives_the_selected_weights_of_the_reference(call, data):
    block, arguments = call
    arguments.pop("kv_lengths", None)
    config, expected = block.config, attend_stages(block, **arguments)
    heads = data.draw(st.permutations(range(config.num_heads)))
    heads = np.array(heads[: data.draw(st.integers(1, len(heads)))])
    stage = data.draw(st.sampled_from(["attn_weights", "scores", "masked"]))
    average, top_k = data.draw(st.booleans()), data.draw(st.sampled_from([0, 1, 3]))
    feeds = {"attn_mask": np.zeros((1, 1, 1, 1), np.float32)} | feeds_of(config, **arguments)
    feeds |= {
        "need_weights": np.array(True),
        "heads": heads,
        "stage": np.array({"attn_weights": 1, "scores": 2, "masked": 3}[stage]),
        "average_heads": np.array(average),
        "top_k": np.array(top_k),
        "value": feeds["value"][:, :0],  # not needed
    }
    given = run(session_of(block), ["output", "attn_weights", "top_keys"], feeds)
    chosen = getattr(expected, stage)[:, heads]
    if average:
        chosen = chosen.mean(axis=1, keepdims=True)
    assert given["output"].size == 0
    if not top_k:
        assert_same(given["attn_weights"], chosen)
        assert given["top_keys"].size == 0
        return
    assert_same(given["attn_weights"], -np.sort(-chosen, axis=-1)[..., :top_k])
    assert_same(np.take_along_axis(chosen, given["top_keys"], axis=-1), given["attn_weights"])
    ordered = np.sort(given["top_keys"], axis=-1)
    assert (np.diff(ordered, axis=-1) > 0).all()


@settings(max_examples=60)
@given(call=attention_calls(attention_configs(has_in_proj=True), masks=("", "float")))
def test_projected_keys_of_an_earlier_run_give_the_same_result_as_embeddings(call):
    block, arguments = call
    arguments.pop("kv_lengths", None)
    session, expected = session_of(block), attend_stages(block, **arguments)
    feeds = feeds_of(block.config, **arguments)
    projected = run(session, ["projected_key", "projected_value"], feeds)
    last = feeds | {name: feeds[name][:, :0] for name in ("key", "value")}
    last |= {"query": feeds["query"][:, -1:], "need_weights": np.array(True)}
    for name, array in projected.items():
        heads = array.reshape(*array.shape[:2], block.config.num_kv_heads, -1)
        last[name.replace("projected", "past")] = heads.swapaxes(1, 2)
    if "query_index" in feeds:
        last["query_index"] = feeds["query_index"][-1:]
    if "positions" in feeds:
        last["positions"] = feeds["positions"][:, -1:]
        last["key_positions"] = feeds["key_positions"][:, :0]
    last.setdefault("attn_mask", np.zeros((1, 1, 1, 1), np.float32))  # because a past needs a mask
    if last["attn_mask"].shape[2] > 1:
        last["attn_mask"] = last["attn_mask"][:, :, -1:]
    given = run(session, ["output", "attn_weights"], last)
    assert_same(given["output"], expected.output[:, -1:])
    assert_same(given["attn_weights"], expected.attn_weights[:, :, -1:])


def test_the_first_of_keys_with_equal_weights_are_the_top_keys():
    session = session_of(random_block(PLAIN, seed=1))
    x = np.zeros((1, 6, 16), np.float32)  # so that all keys are equal
    feeds = feeds_of(PLAIN, x) | {
        "attn_mask": np.zeros((1, 1, 1, 1), np.float32),
        "need_weights": np.array(True),
        "heads": np.array([0, 1]),
        "top_k": np.array(3),
    }
    given = run(session, ["top_keys"], feeds)
    assert (given["top_keys"] == [0, 1, 2]).all()


def operators_run(config, tmp_path, *, q_seq_len, kv_seq_len, has_mask, need_weights):
    """Run the graph under ONNX Runtime's profiler, and return the operators that ran."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    model = build_model(random_block(config, seed=1))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    query, key = np.ones((1, q_seq_len, 16), np.float32), np.ones((1, kv_seq_len, 16), np.float32)
    mask = np.zeros((1, 1, 1, kv_seq_len), np.float32) if has_mask else None
    feeds = feeds_of(config, query, key, key, attn_mask=mask)
    feeds["need_weights"] = np.array(need_weights)
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(("q_seq_len", "kv_seq_len"), [(5, 5), (3, 5), (5, 3)])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_branch_that_runs_is_the_one_that_the_config_predicts(
    tmp_path, config, q_seq_len, kv_seq_len, has_mask, need_weights
):
    request = {
        "q_seq_len": q_seq_len,
        "kv_seq_len": kv_seq_len,
        "has_mask": has_mask,
        "need_weights": need_weights,
    }
    ran = operators_run(config, tmp_path, **request)
    assert bool(ran & FUSED) == config.runs_fused(**request)
    assert ("Softmax" in ran) != config.runs_fused(**request)


def test_runs_fused_and_fused_operator():
    square = {"q_seq_len": 4, "kv_seq_len": 4}
    assert PLAIN.runs_fused(need_weights=False, has_mask=False, q_seq_len=2, kv_seq_len=9)
    assert CAUSAL.runs_fused(need_weights=False, has_mask=False, **square)
    assert not CAUSAL.runs_fused(need_weights=False, has_mask=False, q_seq_len=2, kv_seq_len=9)
    assert not PLAIN.runs_fused(need_weights=True, has_mask=False, **square)
    assert not PLAIN.runs_fused(need_weights=False, has_mask=True, **square)
    fused = {name: config.fused_operator for name, config in CONFIGS.items()}
    assert [name for name, operator in fused.items() if operator == "GroupQueryAttention"] == [
        "causal",
        "grouped-causal",
        "window-causal",
        "sinks-causal",
    ]
    assert [name for name, operator in fused.items() if not operator] == [
        "causal-narrow",
        "values-of-other-width-causal",
        "window",
        "softcap",
        "softcap-causal",
        "sinks",
        "alibi",
        "alibi-causal",
        "relative",
    ]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_file_is_self_contained_and_valid(config):
    block = random_block(config, seed=1)
    data = build_model(block)
    model = onnx.load_from_string(data)

    onnx.checker.check_model(model, full_check=True)
    assert build_model(random_block(config, seed=1)) == data
    assert {(o.domain, o.version) for o in model.opset_import} == {("", 23), ("com.microsoft", 1)}
    assert model.ir_version == 10
    assert not any(t.data_location == t.EXTERNAL for t in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert AttentionConfig.from_json(metadata[CONFIG_KEY]) == config
    provenance = Provenance.from_json(metadata[PROVENANCE_KEY])
    assert provenance == block.provenance
    assert provenance.weights_sha256 == block.weights_sha256()


def test_parameters_are_stored_once():
    """The branches share the projections, so the file is hardly larger than its weights."""
    block = random_block(AttentionConfig(embed_dim=256, num_heads=4), seed=1)
    size = sum(array.nbytes for array in block.weights.values())
    assert size < len(build_model(block)) < size + 20_000


def test_a_row_of_the_lowest_float_is_uniform_and_one_of_minus_infinity_is_zero():
    """Hugging Face masks with the lowest finite number, which is added like any other bias."""
    session = session_of(random_block(PLAIN, seed=1))
    x = np.random.default_rng(0).standard_normal((1, 3, 16)).astype(np.float32)
    mask = np.zeros((1, 1, 3, 3), np.float32)
    mask[0, 0, 0], mask[0, 0, 1] = np.finfo(np.float32).min, -np.inf
    feeds = feeds_of(PLAIN, x, attn_mask=mask) | {"need_weights": np.array(True)}
    weights = run(session, ["attn_weights"], feeds)["attn_weights"]
    np.testing.assert_allclose(weights[:, :, 0], 1 / 3, rtol=1e-6)
    assert not weights[:, :, 1].any()
