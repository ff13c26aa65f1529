"""Sends one request from a new process, and prints the cost of client and server as JSON.

`python -m benchmarks.weights.one_request TARGET PID NAME SEQ_LEN`; PID is the server's process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from benchmarks.blocks import EMBED_DIM, random_embeddings
from benchmarks.harness.memory import MemoryGrowth
from benchmarks.harness.timing import cpu_clock
from benchmarks.report import ROOT
from benchmarks.weights.requests import REQUESTS
from polyhead import Client

if TYPE_CHECKING:
    from benchmarks.harness.serving import ServerProcess

__all__ = ["RequestCost", "send_once"]


@dataclass(frozen=True)
class RequestCost:
    """The cost of one request."""

    result_bytes: int
    """Size of the result's arrays."""
    server_cpu_s: float
    client_cpu_s: float
    wall_s: float
    server_mb: float
    """Growth of the server's memory at its peak."""
    client_mb: float


def send_once(served: ServerProcess, name: str, seq_len: int) -> RequestCost:
    """Send one of the REQUESTS from a new process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.weights.one_request",
        served.target,
        str(served.process_id),
    ]
    command += [name, str(seq_len)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return RequestCost(**json.loads(completed.stdout))


def main(target: str, process_id: str, name: str, seq_len: str) -> None:
    """Send the request, and measure."""
    request = REQUESTS[name]
    query = random_embeddings(int(seq_len), EMBED_DIM)
    server_clock = cpu_clock(int(process_id))
    with Client(target) as client:
        request.send(client, query[:, :16])  # connects, and warms up both sides
        server_growth, client_growth = MemoryGrowth(process_id), MemoryGrowth()
        server_cpu, client_cpu, wall = server_clock(), time.process_time(), time.perf_counter()
        result_bytes = request.send(client, query)
        cost = RequestCost(
            result_bytes=result_bytes,
            server_cpu_s=server_clock() - server_cpu,
            client_cpu_s=time.process_time() - client_cpu,
            wall_s=time.perf_counter() - wall,
            server_mb=server_growth.peak_mb(),
            client_mb=client_growth.peak_mb(),
        )
    sys.stdout.write(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main(*sys.argv[1:])
