"""`polyhead serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = ["Served", "serving"]


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    target: str
    """Address for a client."""
    process_id: int


@contextmanager
def serving(models: Path, *flags: str, cpus: Collection[int] = ()) -> Iterator[Served]:
    """Start a server on a free port, on these CPUs or on all; wait until it serves, and end it."""
    command = [sys.executable, "-m", "polyhead", "serve", "--models", str(models), "--port", "0"]
    command += ["--log-format", "json", *flags]
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or all_cpus)  # which children inherit
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own
    os.sched_setaffinity(0, all_cpus)
    try:
        address = _address(process)
        # a log that nobody reads would hold it up, once the pipe is full
        Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
        yield Served(address, process.pid)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Read the log up to the line that tells where it serves."""
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
            return str(event["address"])
    raise RuntimeError("the server ended before it served:\n" + "".join(lines))
