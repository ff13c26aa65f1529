"""Sends one request from a process of its own, and prints what it cost both sides as JSON.

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
from benchmarks.harness.memory import Growth
from benchmarks.harness.timing import cpu_clock
from benchmarks.report import ROOT
from benchmarks.weights.requests import QUESTIONS
from polyhead import Client

if TYPE_CHECKING:
    from benchmarks.harness.serving import Served

__all__ = ["Answer", "ask_once"]


@dataclass(frozen=True)
class Answer:
    """What one answer took."""

    answer_bytes: int
    """Of its arrays."""
    server_cpu_s: float
    client_cpu_s: float
    wall_s: float
    server_mb: float
    """By how much the server grew, at the peak."""
    client_mb: float


def ask_once(served: Served, name: str, seq_len: int) -> Answer:
    """Ask a server one of the QUESTIONS from a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.weights.one_request",
        served.target,
        str(served.process_id),
    ]
    command += [name, str(seq_len)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return Answer(**json.loads(answer.stdout))


def main(target: str, process_id: str, name: str, seq_len: str) -> None:
    """Ask here, and measure."""
    question = QUESTIONS[name]
    query = random_embeddings(int(seq_len), EMBED_DIM)
    server_clock = cpu_clock(int(process_id))
    with Client(target) as client:
        question.ask(client, query[:, :16])  # connects, and warms both sides up
        server_growth, client_growth = Growth(process_id), Growth()
        server_cpu, client_cpu, wall = server_clock(), time.process_time(), time.perf_counter()
        answer_bytes = question.ask(client, query)
        answer = Answer(
            answer_bytes=answer_bytes,
            server_cpu_s=server_clock() - server_cpu,
            client_cpu_s=time.process_time() - client_cpu,
            wall_s=time.perf_counter() - wall,
            server_mb=server_growth.peak_mb(),
            client_mb=client_growth.peak_mb(),
        )
    sys.stdout.write(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main(*sys.argv[1:])
