"""Worker processes: the requests of two of them relative to one."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_call, serialize_request
from benchmarks.harness.cases import Measurement, measure_in_turns, ratios
from benchmarks.harness.generators import repeat_call
from benchmarks.harness.serving import start_server
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.limits.small import EMBED_DIM, MODEL, SEQ_LEN, WORKLOAD
from polyhead_models import builtin

__all__ = ["measure_workers"]

CONNECTIONS, IN_FLIGHT = 16, 4
"""Enough connections that each worker gets some, because the kernel distributes connections."""
NUM_WORKERS = 2
LIMIT = Limit(1.7, is_minimum=True)
NOTE = (
    "no limit, because one worker already uses both CPUs: gRPC reads and writes on threads of its "
    "own. The limit is therefore against a worker that is held to one CPU"
)


def measure_workers(effort: Effort) -> list[Finding]:
    """Compare the requests per second of two workers with those of one.

    The load generator shares the server's CPUs. So the limit is for the rate that two workers
    would reach if they also had the generator's CPU time.
    """
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    request = serialize_request(query, MODEL, need_weights=True)
    with ExitStack() as stack:
        cases = {}
        for name, num_workers, cpus in (
            ("workers: 1", 1, set[int]()),
            (f"workers: {NUM_WORKERS}", NUM_WORKERS, set[int]()),
            ("workers: 1, on one CPU", 1, {min(os.sched_getaffinity(0))}),
        ):
            flags = ("--threads", "1", "--workers", str(num_workers))
            served = stack.enter_context(start_server(builtin.repository(), *flags, cpus=cpus))
            call = attend_call(served, [request])
            cases[name] = repeat_call(call, IN_FLIGHT, CONNECTIONS)
        measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    one, two, one_on_one_cpu = measurements.values()
    workload = f"{WORKLOAD}; {CONNECTIONS} connections, {IN_FLIGHT} in flight on each; two workers"
    to_one, to_one_on_one_cpu = ratios(two, one, "rate"), ratios(two, one_on_one_cpu, "rate")
    with_share, with_share_on_one_cpu = (
        [ratio / _servers_share(measured) for ratio, measured in zip(rates, two, strict=True)]
        for rates in (to_one, to_one_on_one_cpu)
    )
    per_cpu = ratios(two, one, "rate_per_cpu")
    on_one_cpu = "one worker on one CPU: requests/s, the generator's share added"
    alone = "one worker: requests/s, the generator's share added"
    return [
        Finding(workload, on_one_cpu, LIMIT, with_share_on_one_cpu, measurements),
        Finding(workload, alone, None, with_share, note=NOTE),
        Finding(workload, "one worker: requests/s", None, to_one),
        Finding(workload, "one worker: requests for each CPU second", None, per_cpu),
    ]


def _servers_share(measured: Measurement) -> float:
    """Return the share of all CPU time that the generator left to the server."""
    cpus = len(os.sched_getaffinity(0))
    return 1 - measured.client_cpu_s / (measured.wall_s * cpus)
