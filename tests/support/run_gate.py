"""A gate at which the runs of a real server wait, so that tests need no sleeps."""

from __future__ import annotations

import threading

import numpy as np
from call_log import EVERY_LINE
from raw_calls import WIDTH, request

from polyhead.wire.tensors import to_tensor
from polyhead_server.limits import InlineLimits
from polyhead_server.running import running_server

PATIENCE_S = 20


def server_in_threads(repository, **settings):
    """Start a server that runs nothing on its event loop, because a gate would block that."""
    limits = {"inline_limits": InlineLimits(max_multiply_adds=0), "log_limits": EVERY_LINE}
    return running_server(repository, threads=1, **limits, **settings)


class Gate:
    """Holds numbered requests back when their run begins. All others pass."""

    def __init__(self):
        self.batches = []
        self.opened = threading.Event()
        self._arrived = threading.Semaphore(0)
        self._began = threading.Semaphore(0)

    @property
    def begun(self):
        """The numbers of all requests that began to run, in order."""
        return [number for batch in self.batches for number in batch]

    def pass_by(self, feeds):
        numbers = feeds["query"][:, 0, 0].tolist()
        if numbers[0] > 0 and all(number == int(number) for number in numbers):
            self.batches.append([int(number) for number in numbers])
            self._began.release()
            assert self.opened.wait(PATIENCE_S)

    def arrive(self):
        self._arrived.release()

    def wait_for_a_run(self):
        assert self._began.acquire(timeout=PATIENCE_S)

    def wait_for_arrivals(self, count):
        """Wait until so many more requests run, wait in the queue or are refused there."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE_S)


def numbered(number, **fields):
    """Make a small request that a gate recognises by its number."""
    array = np.zeros((1, 2, WIDTH), np.float32)
    array[0, 0, 0] = number
    return request(query=to_tensor(array), request_id=str(number), **fields)
