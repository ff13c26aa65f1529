"""docs/weights.md: its examples run, and weights have the shapes that other tools expect."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import polyhead
from polyhead_models import builtin
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.running import running_server

GUIDE = (Path(__file__).parents[3] / "docs" / "weights.md").read_text()
TOKENS = ["[CLS]", "the", "river", "bank", "is", "deep", "[SEP]"]
QUERY = np.random.default_rng(0).standard_normal((2, len(TOKENS), 8), dtype=np.float32)
NOT_OURS = re.compile(r"\b(torch|bertviz|circuitsvis)\b")


@pytest.fixture
def served(tmp_path):
    """A server with the models of the guide."""
    config = AttentionConfig(embed_dim=QUERY.shape[-1], num_heads=8)
    write_model(tmp_path / "models", "bert", build_model(random_block(config, seed=0)))
    shutil.copytree(builtin.repository() / "river-bank", tmp_path / "models" / "river-bank")
    with running_server(tmp_path / "models", threads=1) as server:
        yield server


def test_the_examples_run(served, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    ours = [block for block in blocks if not NOT_OURS.search(block)]
    assert len(blocks) - 4 == len(ours) > 6
    monkeypatch.chdir(tmp_path)
    code = "\n".join(ours).replace("localhost:50051", served.target)
    names = {"query": QUERY, "tokens": TOKENS}
    exec(compile(code, "weights.md", "exec"), names)
    names["client"].close()
    names["river_bank"].close()
    written = np.load("weights.npy")
    assert written.shape == (2, 8, 7, 7)
    np.testing.assert_allclose(written.astype(np.float32).sum(axis=-1), 1, atol=5e-3)
    assert (tmp_path / "head-1.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def layers(connected):
    """The results of two layers, each of which is a model."""
    return [connected.attend(QUERY, model=name, need_weights=True) for name in ("l0", "l1")]


def test_weights_have_the_shape_that_bertviz_takes(layers):
    # head_view: "list of torch.FloatTensor (one for each layer) of shape (batch_size (must be 1),
    # num_heads, sequence_length, sequence_length)"; format_attention in bertviz/util.py then
    # squeezes the batch and stacks the layers (https://github.com/jessevig/bertviz).
    attention = [result.attn_weights[1:2] for result in layers]
    for layer in attention:
        assert layer.shape == (1, 2, len(TOKENS), len(TOKENS))
    squeezed = np.stack([layer.squeeze(0) for layer in attention])
    assert squeezed.shape == (2, 2, len(TOKENS), len(TOKENS))  # num_layers x num_heads x seq x seq


def test_weights_have_the_shape_of_transformer_lens_patterns(layers):
    # hook_pattern: [batch, head_index, query_pos, key_pos] (transformer_lens,
    # components/abstract_attention.py, https://github.com/TransformerLensOrg/TransformerLens)
    assert layers[0].attn_weights.shape == (2, 2, len(TOKENS), len(TOKENS))
    np.testing.assert_allclose(layers[0].attn_weights.sum(axis=-1), 1, atol=1e-6)  # over key_pos


def test_weights_have_the_shape_that_circuitsvis_draws(layers):
    # attention_patterns: "Attention tensor of the shape [num_heads x dest_tokens x src_tokens]",
    # of which it takes .tolist() (https://github.com/TransformerLensOrg/CircuitsVis)
    pattern = layers[0].attn_weights[0]
    assert pattern.shape == (2, len(TOKENS), len(TOKENS))
    drawn = pattern.tolist()
    assert drawn[1][3] == [1, 0, 0, 0, 0, 0, 0]  # head 1 of the fake attends to the first key


def test_selections_keep_these_axes(connected):
    wanted = polyhead.Weights(heads=1, queries=3)
    result = connected.attend(QUERY, model="l0", need_weights=wanted)
    assert result.attn_weights.shape == (2, 1, 1, len(TOKENS))
