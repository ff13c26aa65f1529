"""Numbers that make a computation slow, and long sequences of narrow heads."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from serving import serving

import polyhead
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model

pytestmark = pytest.mark.faults


def compute_ms(client, query, **options):
    results = (client.attend(query, model="wide", **options) for _ in range(3))
    return statistics.median(result.execution.compute_ms for result in results)


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_weights_take_no_longer_than_others(tmp_path, threads):
    """The scores of a row differ by 100, so most weights are below 1e-38."""
    config = AttentionConfig(embed_dim=128, num_heads=2)
    write_model(tmp_path, "wide", build_model(random_block(config, seed=1)))
    query = np.random.default_rng(0).standard_normal((1, 2000, 128)).astype(np.float32)
    with (
        serving("--models", tmp_path, "--threads", threads) as server,
        polyhead.Client(server.address) as client,
    ):
        usual = compute_ms(client, query)
        expensive = compute_ms(client, query * np.float32(5))
        print(f"{usual:.0f} ms, {expensive:.0f} ms")
        assert expensive < 4 * usual


def test_a_run_of_narrow_heads_ends_soon_after_its_caller():
    """A sequence of 60,000 tokens takes minutes; SIGTERM does not wait for it."""
    with serving("--threads", 1, "--grace-s", 1) as server:
        with polyhead.Client(server.address) as client:
            query = np.random.default_rng(0).standard_normal((1, 60_000, 6)).astype(np.float32)
            with pytest.raises(polyhead.DeadlineExceededError):
                client.attend(query, model="river-bank", timeout=3)
        began = time.monotonic()
        server.process.terminate()
        server.process.wait(60)
        took = time.monotonic() - began
        print(f"{took:.1f} s")
        assert took < 15
