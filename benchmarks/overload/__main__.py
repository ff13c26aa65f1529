"""Measures each size at the peak, and at one, two and five times the peak."""

from __future__ import annotations

import argparse
import os
from functools import partial
from statistics import median

import benchmarks.overload
from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import ATTEND, send_request, serialize_request
from benchmarks.harness.serving import start_server
from benchmarks.overload.connection import Connection
from benchmarks.overload.load import Outcome, apply_load, p99
from benchmarks.report import print_now, table
from benchmarks.repository import MODEL, exported

SIZES = {"10 x 6": (10, 6, 2), "200 x 64": (200, 64, 4), "128 x 768": (128, 768, 12)}
FACTORS = (1.0, 2.0, 5.0)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=benchmarks.overload.__doc__)
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--warm-up", type=float, default=7.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--factor", type=float, action="append")
    parser.add_argument("serve", nargs="*", help="further flags of the server, after --")
    arguments = parser.parse_args()
    server_cpu, *own_cpus = sorted(os.sched_getaffinity(0))
    rows = []
    for size in arguments.size or SIZES:
        seq_len, width, heads = SIZES[size]
        request = serialize_request(random_embeddings(seq_len, width), MODEL)
        flags = ["--threads", "1", *arguments.serve]
        with (
            exported(width, heads) as model,
            start_server(model.folder, *flags, cpus=[server_cpu]) as served,
        ):
            os.sched_setaffinity(0, own_cpus)
            send_request(served, request)
            connect = partial(Connection, served.target, ATTEND, request)
            load = partial(apply_load, connect, arguments.connections)
            closed = [
                load(None, warm_up_s=1, seconds=3, max_open=max(1, 32 // arguments.connections))
                for _ in range(3)
            ]
            peak = median(outcome.goodput for outcome in closed)
            rows.append(_row(size, "closed, 32", closed[-1], peak))
            print_now(str(rows[-1]))
            for factor in arguments.factor or FACTORS:
                outcome = load(
                    factor * peak, warm_up_s=arguments.warm_up, seconds=arguments.seconds
                )
                rows.append(_row(size, f"{factor:g}x", outcome, peak))
                print_now(f"{rows[-1]} {dict(outcome.counts)}")
            os.sched_setaffinity(0, {server_cpu, *own_cpus})
    head = ["", "load", "answered/s", "of the peak", "ok p50 ms", "ok p99 ms"]
    print_now(table([*head, "refused/s", "refused p99 ms", "late, sent/s"], rows))


def _row(size: str, load: str, outcome: Outcome, peak: float) -> list[str]:
    return [
        size,
        load,
        f"{outcome.goodput:.0f}",
        f"{outcome.goodput / peak:.2f}",
        f"{median(outcome.ok_ms or [float('nan')]):.1f}",
        f"{p99(outcome.ok_ms):.1f}",
        f"{len(outcome.refused_ms) / outcome.seconds:.0f}",
        f"{p99(outcome.refused_ms):.1f}",
        f"{outcome.counts['late, sent'] / outcome.seconds:.0f}",
    ]


if __name__ == "__main__":
    main()
