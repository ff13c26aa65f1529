"""Subnormal numbers are zeros in the threads that run graphs, because they take too long."""

from __future__ import annotations

import asyncio
import platform
import sys
from threading import Thread

import numpy as np
import pytest

from polyhead_models import builtin
from polyhead_server.engine.subnormals import flush_subnormals
from polyhead_server.scheduling.threads import WorkerThreads

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="flush_subnormals does nothing here",
)
TINY = np.full(100, np.finfo(np.float32).tiny, np.float32)
HALF = np.float32(0.5)


def half_of_the_smallest():
    """Return numbers below the smallest normal number, or zeros."""
    return (TINY * HALF).max()


def test_only_that_thread_computes_with_zeros():
    assert half_of_the_smallest() > 0
    results = []

    def run():
        results.append(half_of_the_smallest())
        flush_subnormals()
        results.append(half_of_the_smallest())
        started = Thread(target=lambda: results.append(half_of_the_smallest()))
        started.start()
        started.join()

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert results[0] > 0
    assert results[1:] == [0, 0]
    assert half_of_the_smallest() > 0


def test_other_numbers_stay_as_they_are():
    numbers = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    products = []

    def run():
        flush_subnormals()
        products.append(numbers * numbers + numbers)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(products[0], numbers * numbers + numbers)


def test_worker_threads_compute_with_zeros(run_async):
    async def scenario():
        threads, done = WorkerThreads("test"), asyncio.Event()
        results = []

        def on_done(result):
            results.append(result)
            done.set()

        threads.start(half_of_the_smallest, on_done)
        await done.wait()
        await asyncio.to_thread(threads.close)
        assert results == [0]

    run_async(scenario())


def test_the_thread_that_loads_a_model_computes_as_before(engine):
    assert half_of_the_smallest() > 0
    engine.open_session(builtin.repository() / "river-bank/1/model.onnx")
    assert half_of_the_smallest() > 0
