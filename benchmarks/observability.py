"""Measures the cost of metrics, log lines and traces: `python -m benchmarks.observability`.

Servers take turns. The server with traces sends them to an address without a listener.
"""

from __future__ import annotations

import argparse
import socket
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from threading import Event, Thread
from typing import TYPE_CHECKING

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_call, serialize_request
from benchmarks.harness.cases import measure_in_turns, median_of, ratios
from benchmarks.harness.generators import repeat_call
from benchmarks.harness.serving import start_server
from benchmarks.report import print_now, table
from benchmarks.repository import MODEL, exported

if TYPE_CHECKING:
    from collections.abc import Iterator

OFF = "neither"
IN_FLIGHT = 16


@dataclass(frozen=True)
class MetricsReader:
    """Reads a metrics page every second. Prometheus does so every 15 seconds."""

    port: int

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read until the `with` statement ends."""
        is_over = Event()

        def read() -> None:
            while not is_over.wait(1.0):
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as page:
                    page.read()

        thread = Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    reader = MetricsReader(free_port())
    flags = {
        OFF: [],
        "metrics, read each second": ["--metrics-port", str(reader.port)],
        "a line for each hundredth call": ["--access-log-sample", "0.01"],
        "a line for each call": ["--access-log-sample", "1"],
        "a trace of each call": ["--tracing"],
    }
    query = random_embeddings(16, 64)
    with exported(64, 4) as model, ExitStack() as stack:
        cases = {}
        for name, given in flags.items():
            server = stack.enter_context(start_server(model.folder, "--threads", "1", *given))
            call = attend_call(server, [serialize_request(query, MODEL)])
            cases[name] = repeat_call(call, IN_FLIGHT)
        stack.enter_context(reader.reading())
        measured = measure_in_turns(cases, arguments.rounds, arguments.seconds)
    rows = [
        [
            name,
            f"{median_of(rounds, 'cpu_ms') * 1e3:.0f}",
            f"{median(ratios(rounds, measured[OFF], 'cpu_ms')):.3f}",
        ]
        for name, rounds in measured.items()
    ]
    print_now("CPU time of the server for an Attend call of 16 tokens of width 64\n")
    print_now(table(["", "us", "ratio"], rows))


if __name__ == "__main__":
    main()
