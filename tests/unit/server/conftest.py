"""Real models for the server's units: exported by the exporter, loaded by the engine."""

from __future__ import annotations

import pytest

from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_server.engine import Engine

CONFIGS = {
    "plain": AttentionConfig(embed_dim=8, num_heads=2),
    "causal": AttentionConfig(embed_dim=16, num_heads=2, is_causal=True),
    "cross": AttentionConfig(embed_dim=8, num_heads=2, kdim=6, vdim=4),
}


@pytest.fixture(scope="session")
def blocks():
    return {name: random_block(config, seed=3) for name, config in CONFIGS.items()}


@pytest.fixture(scope="session")
def onnx_bytes(blocks):
    """The models' files, by name."""
    return {name: build_model(block) for name, block in blocks.items()}


@pytest.fixture(scope="session")
def engine():
    return Engine(provider="cpu", provider_options={}, threads=1, spinning=False)


@pytest.fixture(scope="session")
def models(onnx_bytes, engine, tmp_path_factory):
    """The loaded models, by name."""
    folder = tmp_path_factory.mktemp("models")
    loaded = {}
    for name, content in onnx_bytes.items():
        (folder / f"{name}.onnx").write_bytes(content)
        loaded[name] = engine.load(name, 1, folder / f"{name}.onnx")
    return loaded
