"""Whether a server is as it was before an attack: its memory, its descriptors and its speed."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

import polyhead

QUERY = np.ones((1, 10, 6), np.float32)
"""Of the built-in model."""
MIB = 1 << 20


def call_s(client) -> float:
    """Return how long a good call takes."""
    began = time.perf_counter()
    client.attend(QUERY, model="river-bank", timeout=30)
    return time.perf_counter() - began


def usual_call_s(client, count=50) -> float:
    return statistics.median(call_s(client) for _ in range(count))


def wait_until_fast(client, usual_s, within_s=10):
    """Wait until a good call takes less than twice its usual time.

    On a virtual machine the median of twenty calls to an idle server may be five times another.
    """
    until = time.monotonic() + within_s
    while (now_s := usual_call_s(client, 20)) >= 2 * usual_s:
        state = f"{now_s * 1e3:.2f} ms after {within_s} s, {usual_s * 1e3:.2f} before"
        assert time.monotonic() < until, f"a good call takes {state}"


class Watched:
    """A server's process, measured during an attack."""

    def __init__(self, server):
        self._process = psutil.Process(server.process.pid)
        self.base = self.rss()

    def rss(self) -> int:
        return self._process.memory_info().rss

    def grown(self) -> float:
        """Return by how many MiB its memory has grown since the attack began."""
        return (self.rss() - self.base) / MIB

    def peak(self) -> float:
        """Return the most MiB that its memory ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    def cpu_s(self) -> float:
        return sum(self._process.cpu_times()[:2])

    def wait_until_small(self, grown_mib=20, descriptors=None, within_s=10):
        """Wait until what an attack has taken is free again."""
        until = time.monotonic() + within_s
        while self.grown() > grown_mib or self.num_descriptors() > (descriptors or 1 << 20):
            state = f"{self.grown():.0f} MiB more, {self.num_descriptors()} descriptors"
            assert time.monotonic() < until, f"{state} after {within_s} s; {descriptors} before"
            time.sleep(0.1)

    def num_descriptors(self) -> int:
        return self._process.num_fds()


@contextmanager
def survives(server, grown_mib=20):
    """Hold that a server is, soon after what is done to it, as it was before."""
    with polyhead.Client(server.address) as client:
        usual_s = usual_call_s(client)
        watched = Watched(server)
        descriptors = watched.num_descriptors()
        yield watched
        watched.wait_until_small(grown_mib, descriptors)
        wait_until_fast(client, usual_s)


class Bystander:
    """Calls a server fifty times a second, answered or not, from a process of its own."""

    def __init__(self, address):
        command = [sys.executable, "-c", _BYSTANDER, address]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.calls()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate(timeout=60)

    def calls(self) -> list[float]:
        """Return how long each call took since the last time this was asked; failures: infinite."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def calls_during(self, seconds) -> list[float]:
        self.calls()
        time.sleep(seconds)
        return self.calls()


_BYSTANDER = """
import asyncio, json, math, sys, threading, time
import numpy as np
import polyhead

took = []
query = np.ones((1, 10, 6), np.float32)

async def call(client):
    began = time.perf_counter()
    try:
        await client.attend(query, model="river-bank", timeout=5)
        took.append(time.perf_counter() - began)
    except polyhead.PolyheadError:
        took.append(math.inf)

async def call_on(ready):
    calls = set()
    async with polyhead.AsyncClient(sys.argv[1]) as client:
        await call(client)
        ready.set()
        while True:
            calls = {each for each in calls if not each.done()}
            calls.add(asyncio.create_task(call(client)))
            await asyncio.sleep(0.02)

ready = threading.Event()
threading.Thread(target=lambda: asyncio.run(call_on(ready)), daemon=True).start()
ready.wait()
for _ in sys.stdin:
    print(json.dumps(took[:]), flush=True)
    took.clear()
"""
