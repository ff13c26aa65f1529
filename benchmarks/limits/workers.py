"""Worker processes: how much more two of them serve than one."""

from __future__ import annotations

import os
from contextlib import ExitStack

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call
from benchmarks.harness.cases import Load, loads_in_turns, ratios
from benchmarks.harness.generators import repeat
from benchmarks.harness.serving import serving
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.limits.small import EMBED_DIM, MODEL, SEQ_LEN, WORK
from polyhead_models import builtin

__all__ = ["measure_workers"]

CONNECTIONS, IN_FLIGHT = 16, 4
"""Connections enough that each worker gets some: it is connections that are shared out."""
NUM_WORKERS = 2
LEAST = Limit(1.7, is_least=True)


def measure_workers(effort: Effort) -> list[Finding]:
    """Compare what two workers serve with what one does.

    The load generator has no CPUs of its own: what it takes, two workers cannot have. The limit is
    therefore for the requests a second that there would be if all CPUs were the servers'. Beside it
    stand those that there were, and the requests for each CPU second that the servers took. One
    worker takes more than one CPU, as gRPC reads and writes on threads of its own; what one does
    on one CPU is therefore told as well.
    """
    request = attend_bytes(random_embeddings(SEQ_LEN, EMBED_DIM), MODEL, need_weights=True)
    with ExitStack() as stack:
        cases = {}
        for name, number, cpus in (
            ("workers: 1", 1, set[int]()),
            (f"workers: {NUM_WORKERS}", NUM_WORKERS, set[int]()),
            ("workers: 1, on one CPU", 1, {min(os.sched_getaffinity(0))}),
        ):
            flags = ("--threads", "1", "--workers", str(number))
            served = stack.enter_context(serving(builtin.repository(), *flags, cpus=cpus))
            call = attend_call(served, [request])
            cases[name] = repeat(call, IN_FLIGHT, CONNECTIONS)
        loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    one, two, on_one_cpu = loads.values()
    work = f"{WORK}; {CONNECTIONS} connections, {IN_FLIGHT} in flight on each; two workers"
    rates, on_one = ratios(two, one, "rate"), ratios(two, on_one_cpu, "rate")
    of_all, of_one = (
        [ratio / _share_of_servers(load) for ratio, load in zip(rates_to, two, strict=True)]
        for rates_to in (rates, on_one)
    )
    per_cpu = ratios(two, one, "rate_per_cpu")
    return [
        Finding(work, "one worker: requests/s, the generator's share added", LEAST, of_all, loads),
        Finding(work, "one worker on one CPU: the same", None, of_one),
        Finding(work, "one worker: requests/s", None, rates),
        Finding(work, "one worker: requests for each CPU second", None, per_cpu),
    ]


def _share_of_servers(load: Load) -> float:
    """Which part of all CPUs' time the generator left."""
    cpus = len(os.sched_getaffinity(0))
    return 1 - load.client_cpu_s / (load.wall_s * cpus)
