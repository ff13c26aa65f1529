"""Client processes that crash: they are killed and started again at random."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter

from tests.soak.callers import KINDS

LIFE_S = 2.0, 15.0
"""Shortest and longest life of a client process."""


class Crowd:
    """One process of each kind, at any time."""

    def __init__(self, address, rng):
        self._address, self._rng = address, rng
        self._processes = {}
        """By kind: the process, and when it is killed."""
        self.counts = Counter()
        """What the processes have counted, and how many were killed."""
        self.errors = []
        """What processes wrote to stderr that ended by themselves."""

    def __enter__(self):
        self.turn_over()
        return self

    def __exit__(self, *_):
        for process, _ in self._processes.values():
            self._kill(process)

    def turn_over(self):
        """Kill the processes whose time is over, and start others."""
        now = time.monotonic()
        for kind in KINDS:
            process, end = self._processes.get(kind, (None, 0.0))
            if process is not None and process.poll() is not None:
                self.errors.append(process.stderr.read()[-2000:])
            elif process is not None and now < end:
                continue
            elif process is not None:
                self._kill(process)
            self._processes[kind] = self._start(kind), now + self._rng.uniform(*LIFE_S)

    def _start(self, kind):
        seed = str(self._rng.randrange(1 << 30))
        command = [sys.executable, "-m", "tests.soak.callers", kind, self._address, seed]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process):
        for line in process.stdout:
            answered, _, failed = line.strip().partition(" ")
            if answered.isdigit() and failed.isdigit():  # a killed process leaves half a line
                self.counts["answered"] += int(answered)
                self.counts["failed"] += int(failed)

    def _kill(self, process):
        process.kill()
        process.wait()
        self.counts["killed"] += 1
