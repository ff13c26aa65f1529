"""What the peers' benchmark writes."""

from __future__ import annotations

from math import isnan
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.harness.cases import Load, middle, ratios
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["rates_table", "reasons"]

Loads: TypeAlias = "Mapping[int, Mapping[str, Sequence[Load]]]"
"""By what is in flight, and by case."""
OURS = "polyhead"
WHY = {
    "calls; AsyncClient": "the client makes arrays of the bytes, and from 16 in flight "
    "on as under grpc.aio",
    "calls; grpc.aio": "a call is answered by Python's gRPC, and most of what that takes an "
    "empty echo takes as well (see Limits); Triton answers in C++ and runs Python once for a batch",
    "calls; h2load": "as under grpc.aio; a lighter generator leaves more of the "
    "CPUs, which one Python process cannot use and Triton can",
    "stream; AsyncClient": "one request at a time shares a message with no other",
    "stream; h2load": "one request at a time shares a message with no other",
}
"""Why polyhead is behind where it is, by how it was called."""


def rates_table(loads: Loads) -> str:
    """Tabulate requests a second and latencies."""
    header = ["server, call; generator", *(f"{in_flight} in flight" for in_flight in loads)]
    names = next(iter(loads.values()))
    rows = [[name, *(_cell(of_cases[name]) for of_cases in loads.values())] for name in names]
    return table(header, rows)


def reasons(loads: Loads) -> str:
    """Say where polyhead serves fewer requests a second than a peer, and why."""
    lines = []
    for name in next(iter(loads.values())):
        server, _, how = name.partition(", ")
        if server != OURS:
            continue
        behind = []
        for in_flight, of_cases in loads.items():
            for other, theirs in of_cases.items():
                if other.startswith(OURS) or _generator(other) != _generator(name):
                    continue
                ratio = median(ratios(of_cases[name], theirs, "rate"))
                if ratio < 1:
                    peer = other.partition(",")[0]
                    behind.append(f"{ratio:.2f} of {peer}'s requests/s at {in_flight} in flight")
        if behind:
            lines.append(f"- {how}: {', '.join(behind)}: {WHY[how]}.")
    return "\n".join(["Where polyhead is behind:", "", *lines]) if lines else "Nowhere behind."


def _generator(name: str) -> str:
    """Python clients are compared with one another, and h2load with itself."""
    return "h2load" if name.endswith("h2load") else "Python"


def _cell(loads: Sequence[Load]) -> str:
    latency = middle(loads, "p50_ms")
    rate = f"{middle(loads, 'rate'):.0f}"
    return rate if isnan(latency) else f"{rate} / {latency:.3g}"
