"""The ONNX file: one graph, its branches taken by the stated rule, the same bytes every time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from polyhead_models.config import CONFIG_KEY, PROVENANCE_KEY, AttentionConfig, Provenance
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

PLAIN = AttentionConfig(embed_dim=16, num_heads=2)
CAUSAL = AttentionConfig(embed_dim=16, num_heads=2, is_causal=True)
CAUSAL_NARROW = AttentionConfig(embed_dim=16, num_heads=4, is_causal=True)
NO_MASK = np.zeros((0, 0, 0, 0), np.float32)
FUSED = {"MultiHeadAttention", "GroupQueryAttention"}


def operators_run(config, tmp_path, *, q_seq_len, kv_seq_len, has_mask, need_weights):
    """Run the graph under ONNX Runtime's profiler: which operators really ran."""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    model = build_model(random_block(config, seed=1))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    embeddings = np.ones((1, q_seq_len, 16), np.float32), np.ones((1, kv_seq_len, 16), np.float32)
    feeds = {
        "query": embeddings[0],
        "key": embeddings[1],
        "value": embeddings[1],
        "attn_mask": np.zeros((1, 1, 1, kv_seq_len), np.float32) if has_mask else NO_MASK,
        "need_weights": np.array(need_weights),
    }
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("has_mask", [False, True])
@pytest.mark.parametrize(("q_seq_len", "kv_seq_len"), [(5, 5), (3, 5), (5, 3)])
@pytest.mark.parametrize("config", [PLAIN, CAUSAL, CAUSAL_NARROW])
def test_the_branch_taken_is_the_one_that_the_config_tells(
    tmp_path, config, q_seq_len, kv_seq_len, has_mask, need_weights
):
    asked = {
        "q_seq_len": q_seq_len,
        "kv_seq_len": kv_seq_len,
        "has_mask": has_mask,
        "need_weights": need_weights,
    }
    ran = operators_run(config, tmp_path, **asked)
    assert bool(ran & FUSED) == config.runs_fused(**asked)
    assert ("Softmax" in ran) != config.runs_fused(**asked)


def test_the_rule_itself():
    square = {"q_seq_len": 4, "kv_seq_len": 4}
    assert PLAIN.runs_fused(need_weights=False, has_mask=False, q_seq_len=2, kv_seq_len=9)
    assert CAUSAL.runs_fused(need_weights=False, has_mask=False, **square)
    assert not CAUSAL.runs_fused(need_weights=False, has_mask=False, q_seq_len=2, kv_seq_len=9)
    assert not PLAIN.runs_fused(need_weights=True, has_mask=False, **square)
    assert not PLAIN.runs_fused(need_weights=False, has_mask=True, **square)
    assert not CAUSAL_NARROW.runs_fused(need_weights=False, has_mask=False, **square)


@pytest.mark.parametrize("config", [PLAIN, CAUSAL, CAUSAL_NARROW])
def test_the_file_is_whole_and_checked(config):
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


def test_parameters_are_held_once():
    """Both branches share the projections: the file is hardly larger than its weights."""
    block = random_block(AttentionConfig(embed_dim=256, num_heads=4), seed=1)
    size = sum(array.nbytes for array in block.weights.values())
    assert size < len(build_model(block)) < size + 20_000


def test_a_row_of_the_lowest_float_is_uniform_and_one_of_minus_infinity_is_zero():
    """Hugging Face masks with the lowest finite number: adding it is what it means."""
    session = ort.InferenceSession(
        build_model(random_block(PLAIN, seed=1)), providers=["CPUExecutionProvider"]
    )
    x = np.random.default_rng(0).standard_normal((1, 3, 16)).astype(np.float32)
    mask = np.zeros((1, 1, 3, 3), np.float32)
    mask[0, 0, 0], mask[0, 0, 1] = np.finfo(np.float32).min, -np.inf
    feeds = {"query": x, "key": x, "value": x, "attn_mask": mask, "need_weights": np.array(True)}
    _, weights = session.run(None, feeds)
    np.testing.assert_allclose(weights[:, :, 0], 1 / 3, rtol=1e-6)
    assert not weights[:, :, 1].any()
