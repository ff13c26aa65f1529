"""Real models for the server's units: exported by the exporter, loaded by the engine."""

from __future__ import annotations

import asyncio

import pytest
from gated_scheduler import PATIENCE_S, Gated
from loads import load_repository

from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.rotary import Rotary
from polyhead_server.engine.runtime import Engine
from polyhead_server.scheduling.scheduler import Scheduler

CONFIGS = {
    "plain": AttentionConfig(embed_dim=8, num_heads=2),
    "causal": AttentionConfig(embed_dim=16, num_heads=2, is_causal=True),
    "cross": AttentionConfig(embed_dim=8, num_heads=2, kdim=6, vdim=4),
    "rotary": AttentionConfig(embed_dim=8, num_heads=2, rotary=Rotary(dim=4)),
    "sdpa": AttentionConfig(
        embed_dim=16,
        num_heads=4,
        num_kv_heads=2,
        v_head_dim=6,
        has_in_proj=False,
        has_out_proj=False,
    ),
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
    return Engine(
        provider="cpu", provider_options={}, threads=1, spinning=False, max_scores_bytes=64 << 20
    )


@pytest.fixture(scope="session")
def models(onnx_bytes, engine, tmp_path_factory):
    """The loaded models, by name."""
    folder = tmp_path_factory.mktemp("models")
    loaded = {}
    for name, content in onnx_bytes.items():
        (folder / f"{name}.onnx").write_bytes(content)
        loaded[name] = engine.load(name, 1, folder / f"{name}.onnx")
    return loaded


@pytest.fixture
def gated(models):
    model = Gated(models["plain"])
    yield model
    model.gate.set()


@pytest.fixture
def run_async():
    """Run a coroutine on a loop of its own, where any complaint of asyncio's is a failure."""

    def run_async(coroutine):
        complaints = []

        async def watched():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            return await asyncio.wait_for(coroutine, PATIENCE_S)

        result = asyncio.run(watched())
        assert not complaints
        return result

    return run_async


@pytest.fixture
def make_scheduler():
    made = []

    def make(
        max_concurrent_runs=1,
        max_queue_size=10,
        max_queue_bytes=1 << 20,
        max_queue_delay_s=0.0,
        **options,
    ):
        limits = max_concurrent_runs, max_queue_size, max_queue_bytes, max_queue_delay_s
        made.append(Scheduler(*limits, **{"abandon_after_s": 3600.0, **options}))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.close()


@pytest.fixture
def folder(onnx_bytes, tmp_path):
    """A repository of a few models on disk."""
    for name in ("plain", "other", "rotary"):
        (tmp_path / name / "1").mkdir(parents=True)
        content = onnx_bytes["plain" if name == "other" else name]
        (tmp_path / name / "1" / "model.onnx").write_bytes(content)
    return tmp_path


@pytest.fixture
def repository(folder, engine):
    return load_repository(folder, engine)
