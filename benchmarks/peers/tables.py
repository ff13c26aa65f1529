"""The tables that the comparison with peers writes."""

from __future__ import annotations

from math import isnan
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.harness.cases import Measurement, median_of, ratios
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["rates_table", "reasons"]

Results: TypeAlias = "Mapping[int, Mapping[str, Sequence[Measurement]]]"
"""Measurements by number in flight and case."""
POLYHEAD = "polyhead"
WHY = {
    "calls; AsyncClient": "the client also makes arrays from the bytes; from 16 in flight on the "
    "reason is that of grpc.aio",
    "calls; grpc.aio": "Python's gRPC answers each call, and an empty echo costs most of that too "
    "(see Limits); Triton answers in C++ and runs Python once per batch",
    "calls; h2load": "as with grpc.aio; the lighter generator leaves more CPU time, which Triton "
    "can use and one Python process cannot",
    "stream; AsyncClient": "with one request in flight, no requests share a message",
    "stream; h2load": "with one request in flight, no requests share a message",
}
"""Why polyhead is behind, by kind of call and generator."""


def rates_table(measurements: Results) -> str:
    """Tabulate requests per second and latencies."""
    header = ["server, call; generator", *(f"{in_flight} in flight" for in_flight in measurements)]
    names = next(iter(measurements.values()))
    rows = [[name, *(_cell(cases[name]) for cases in measurements.values())] for name in names]
    return table(header, rows)


def reasons(measurements: Results) -> str:
    """List where polyhead serves fewer requests per second than a peer, and why."""
    lines = []
    for name in next(iter(measurements.values())):
        server, _, how = name.partition(", ")
        if server != POLYHEAD:
            continue
        behind = []
        for in_flight, cases in measurements.items():
            for other, peer_measurements in cases.items():
                if other.startswith(POLYHEAD) or _generator(other) != _generator(name):
                    continue
                ratio = median(ratios(cases[name], peer_measurements, "rate"))
                if ratio < 1:
                    peer = other.partition(",")[0]
                    behind.append(f"{ratio:.2f} of {peer}'s requests/s at {in_flight} in flight")
        if behind:
            lines.append(f"- {how}: {', '.join(behind)}: {WHY[how]}.")
    return "\n".join(["Where polyhead is behind:", "", *lines]) if lines else "Nowhere behind."


def _generator(name: str) -> str:
    """Return the generator: cases are compared only if it is the same."""
    return "h2load" if name.endswith("h2load") else "Python"


def _cell(measurements: Sequence[Measurement]) -> str:
    latency = median_of(measurements, "p50_ms")
    rate = f"{median_of(measurements, 'rate'):.0f}"
    return rate if isnan(latency) else f"{rate} / {latency:.3g}"
