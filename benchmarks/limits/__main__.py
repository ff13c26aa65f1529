"""Measures the rows, and writes the table."""

from __future__ import annotations

import argparse

import benchmarks.limits
from benchmarks.harness.generators import GENERATOR
from benchmarks.limits.client import measure_decode
from benchmarks.limits.compute import (
    measure_graph,
    measure_mixed,
    measure_tokens,
    measure_weights,
)
from benchmarks.limits.finding import Effort, figures_table, limits_table
from benchmarks.limits.small import measure_inference, measure_stream, measure_unary
from benchmarks.limits.workers import measure_workers
from benchmarks.report import RESULTS, print_now, publish

ROWS = {
    "unary": measure_unary,
    "stream": measure_stream,
    "inference": measure_inference,
    "graph": measure_graph,
    "weights": measure_weights,
    "tokens": measure_tokens,
    "mixed": measure_mixed,
    "decode": measure_decode,
    "workers": measure_workers,
}
NOTE = """\
Ratios of the server's CPU time per request, with all its processes, unless the row says otherwise:
medians of {rounds} rounds of about {seconds:g} s for each case, in which a row's cases take turns.
The server is a process of its own, started as users do except for `--threads 1`. Load comes from
{generator} on the same machine, and for mixed lengths from a Python process. Blocks and embeddings
are random, except the river bank's block (10 tokens x 6). "Wall ms" is wall time divided by the
number of requests. "Raw bytes" and "echo" are servers that send as many bytes and do nothing else.
Without a limit, a ratio is for information."""


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=benchmarks.limits.__doc__)
    parser.add_argument("--row", choices=ROWS, help="measure this row, and write nothing")
    parser.add_argument("--quick", action="store_true", help="measure briefly, and write nothing")
    arguments = parser.parse_args()
    effort = Effort(rounds=1, seconds=0.3) if arguments.quick else Effort(rounds=9, seconds=1.0)
    findings = []
    for name in [arguments.row] if arguments.row else ROWS:
        print_now(f"limits: {name}")
        findings += ROWS[name](effort)
    note = NOTE.format(rounds=effort.rounds, seconds=effort.seconds, generator=GENERATOR)
    text = f"{note}\n\n{limits_table(findings)}\n\n{figures_table(findings)}"
    print_now(text)
    if not (arguments.quick or arguments.row):
        publish("limits", f"## Limits\n\n{text}", RESULTS)


if __name__ == "__main__":
    main()
