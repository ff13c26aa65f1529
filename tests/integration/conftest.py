"""A real server that serves blocks exported by the real exporters, and clients of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from call_log import EVERY_LINE, call_log
from run_gate import Gate
from variants import VARIANTS

import polyhead
from polyhead_models.checkpoint.checkpoint import load_checkpoint
from polyhead_models.config import AttentionConfig
from polyhead_models.export.precision import with_precision
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.engine.model import Model
from polyhead_server.running import running_server
from polyhead_server.scheduling import scheduler

WIDE = AttentionConfig(embed_dim=64, num_heads=4, is_causal=True)
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def blocks():
    """The blocks that the server of these tests serves, by model name."""
    made = {name: random_block(config, seed=7) for name, config in VARIANTS.items()}
    for precision in ("float16", "int8"):
        made[precision] = with_precision(random_block(WIDE, seed=9), precision)
    made["no-bias"] = random_block(VARIANTS["plain"], seed=8, bias=False)
    for family in ("bert", "distilbert"):
        for layer in (0, 1):
            made[f"{family}-{layer}"] = load_checkpoint(DATA / "golden" / family, layer)
    made["bert-contexts"] = load_checkpoint(DATA / "golden" / "bert", 0, out_proj=False)
    return made


@pytest.fixture(scope="session")
def repository(blocks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for name, block in blocks.items():
        write_model(folder, name, build_model(block))
    return folder


@pytest.fixture(scope="session")
def server(repository):
    with running_server(repository, threads=1, log_limits=EVERY_LINE) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    with polyhead.Client(server.target) as connected:
        yield connected


@pytest.fixture
def gate(monkeypatch):
    """A gate before every run of a numbered request of a server_in_threads."""
    gate, run = Gate(), scheduler.Scheduler.run
    run_graph = Model.run_graph

    async def gated_run(*given):
        gate.arrive()
        return await run(*given)

    def gated_run_graph(model, names, feeds, options):
        gate.pass_by(feeds)
        return run_graph(model, names, feeds, options)

    monkeypatch.setattr(scheduler.Scheduler, "run", gated_run)
    monkeypatch.setattr(Model, "run_graph", gated_run_graph)
    yield gate
    gate.opened.set()


@pytest.fixture
def calls():
    """The log's lines of the calls that have ended."""
    with call_log() as log:
        yield log
