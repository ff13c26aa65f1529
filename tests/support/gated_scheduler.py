"""A real model whose runs wait at a gate, so that tests of the scheduler need no sleeps."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from polyhead_server.deadline import Deadline
from polyhead_server.engine.statistics import ModelStatistics

PASSED = Deadline(0.0)  # at the start of the monotonic clock
PATIENCE_S = 10


def numbers_of(number, length=2):
    """Make the arrays of a request that is recognised by its number."""
    return {"query": np.full((1, length, 8), number, np.float32)}


class Gated:
    """A real model whose runs in threads wait at a gate. It records which requests began to run.

    Runs on the event loop do not wait, because they would hold up the test itself.
    """

    def __init__(self, model):
        self._model = model
        self.config = model.config
        self.max_scores_bytes = model.max_scores_bytes
        self.batching, self.providers = model.batching, model.providers
        self.name, self.version = model.name, model.version
        self.execution_info = model.execution_info
        self.statistics = ModelStatistics()
        self.run_options = model.run_options
        self.gate = threading.Event()
        self.batches = []
        """The numbers of the requests of each run, in the order in which runs began."""
        self.began = threading.Semaphore(0)
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    @property
    def begun(self):
        """The numbers of all requests that began to run, in order."""
        return [number for batch in self.batches for number in batch]

    def run_graph(self, names, feeds, options):
        with self._lock:
            self.batches.append([int(number) for number in feeds["query"][:, 0, 0]])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.began.release()
        is_inline = options is None
        assert is_inline or self.gate.wait(PATIENCE_S)
        try:
            return self._model.run_graph(names, feeds, options)
        finally:
            with self._lock:
                self.at_once -= 1


async def begun(model):
    """Wait until one more run has begun."""
    assert await asyncio.to_thread(model.began.acquire, timeout=PATIENCE_S)


async def settle():
    """Let every task go as far as it can by itself."""
    for _ in range(40):  # more than twice Coalescer.many_turns
        await asyncio.sleep(0)
