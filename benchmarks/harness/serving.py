"""Starts `polyhead serve` as a separate process, with the memory settings of the image."""

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

__all__ = ["ServerProcess", "start_server"]


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    target: str
    """Address for clients."""
    process_id: int


@contextmanager
def start_server(models: Path, *flags: str, cpus: Collection[int] = ()) -> Iterator[ServerProcess]:
    """Start a server on a free port, wait until it serves, and stop it at the end.

    ``cpus``: the CPUs that the server may use; empty means all.
    """
    command = [sys.executable, "-m", "polyhead", "serve", "--models", str(models), "--port", "0"]
    command += ["--log-format", "json", *flags]
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or all_cpus)  # inherited by children
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # as in the Dockerfile
    process = subprocess.Popen(  # noqa: S603 - our own
        command, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.sched_setaffinity(0, all_cpus)
    try:
        address = _read_address(process)
        # read the log, because a full pipe would block the server
        Thread(target=deque, args=(process.stderr, 0), daemon=True).start()
        yield ServerProcess(address, process.pid)
    finally:
        process.terminate()
        process.wait()


def _read_address(process: subprocess.Popen[str]) -> str:
    """Read the log up to the line with the address."""
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
            return str(event["address"])
    raise RuntimeError("the server ended before it served:\n" + "".join(lines))
