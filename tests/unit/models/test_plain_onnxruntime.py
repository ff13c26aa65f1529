"""Models in ONNX Runtime alone: README.md lists the required inputs, and its example runs."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from variants import VARIANTS

from polyhead_models.commands.export import COMMAND
from polyhead_models.config import AttentionConfig
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend_stages

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

README = (Path(__file__).parents[3] / "README.md").read_text()
SECTION = README.partition("### Without polyhead")[2].partition("\n### ")[0]
SEQ_LEN = 5


def test_the_readmes_example_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^polyhead export (.*)$", SECTION, re.MULTILINE)
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    assert COMMAND.run(parser.parse_args(shlex.split(command))) == 0
    capfd.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert capfd.readouterr().err == ""  # no warnings
    config = AttentionConfig.from_json(
        names["session"].get_modelmeta().custom_metadata_map["polyhead.config"]
    )
    assert config.is_causal
    assert config.fused_operator
    stages = attend_stages(random_block(config, seed=0), names["x"])
    np.testing.assert_allclose(names["output"], stages.output, rtol=0, atol=2e-5)
    np.testing.assert_allclose(names["attn_weights"], stages.attn_weights, rtol=0, atol=1e-5)


def required_feeds(config, batch_size, *, is_explicit):
    """Return only the inputs that README.md's table requires."""

    def array(length, width):
        values = np.random.default_rng(length + width).standard_normal((batch_size, length, width))
        return values.astype(config.dtype)

    feeds = {
        "query": array(SEQ_LEN, config.embed_dim),
        "key": array(SEQ_LEN, config.kdim),
        "value": array(SEQ_LEN, config.vdim),
    }
    if config.rotary:
        feeds["positions"] = np.tile(np.arange(SEQ_LEN), (batch_size, 1))
        feeds["key_positions"] = feeds["positions"]
        if config.rotary.depends_on_length:
            feeds["max_position"] = np.array(SEQ_LEN - 1)
    is_half = config.dtype == "float16"
    if is_half:
        feeds["attn_mask"] = np.zeros((0, 0, 0, 0), np.float16)
    if is_explicit and config.depends_on_index:
        feeds["query_index"] = np.arange(SEQ_LEN)
    if is_half:
        past = (batch_size, config.num_kv_heads, 0)
        feeds["past_key"] = np.zeros((*past, config.head_dim), config.dtype)
        feeds["past_value"] = np.zeros((*past, config.v_head_dim), config.dtype)
    return feeds


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_inputs_in_the_readmes_table_are_sufficient(config, precision, batch_size):
    block = with_precision(random_block(config, seed=0), precision)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(build_model(block), options, providers=["CPUExecutionProvider"])
    config = block.config
    feeds = required_feeds(config, batch_size, is_explicit=not config.fused_operator)
    sent = [feeds[name].astype(np.float64) for name in ("query", "key", "value")]
    stages = attend_stages(block, *sent)
    tolerance = 2e-5 if precision == "float32" else 2e-2
    (output,) = session.run(["output"], feeds)
    np.testing.assert_allclose(output, stages.output, rtol=tolerance, atol=tolerance)

    feeds = required_feeds(config, batch_size, is_explicit=True)
    (same,) = session.run(["output"], feeds)
    np.testing.assert_array_equal(same, output)

    feeds |= {"need_weights": np.array(True)}
    output, attn_weights = session.run(["output", "attn_weights"], feeds)
    np.testing.assert_allclose(output, stages.output, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(attn_weights, stages.attn_weights, rtol=tolerance, atol=tolerance)
