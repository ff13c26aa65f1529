"""Load on a server for a while, and what it took; cases take turns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import nan
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Case", "Load", "loads_in_turns", "middle", "ratios", "repeated", "spread"]


@dataclass(frozen=True)
class Load:
    """What some requests of one case took in one round."""

    requests: int
    wall_s: float
    cpu_s: float
    """CPU time of whatever computes: the server with its children, or this process."""
    client_cpu_s: float = 0.0
    """CPU time of the load generator."""
    p50_ms: float = nan
    """Median latency, where the generator tells it."""

    @property
    def cpu_ms(self) -> float:
        """CPU time of a request."""
        return self.cpu_s / self.requests * 1000

    @property
    def client_cpu_ms(self) -> float:
        """The generator's CPU time of a request."""
        return self.client_cpu_s / self.requests * 1000

    @property
    def wall_ms(self) -> float:
        """Time for each request: the time it all took, shared among them."""
        return self.wall_s / self.requests * 1000

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.wall_s

    @property
    def rate_per_cpu(self) -> float:
        """Requests for each CPU second of the server's."""
        return self.requests / self.cpu_s


Case: TypeAlias = "Callable[[float], Load]"
"""Runs for about so many seconds."""


def repeated(function: Callable[[], object], requests: int = 1) -> Case:
    """Make a case of work in this process; the function does so many requests."""

    def run(seconds: float) -> Load:
        done, cpu, start = 0, time.process_time(), time.perf_counter()
        while not done or time.perf_counter() - start < seconds:
            function()
            done += requests
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        return Load(done, wall_s, cpu_s, p50_ms=wall_s / done * 1000)

    return run


def loads_in_turns(cases: Mapping[str, Case], rounds: int, seconds: float) -> dict[str, list[Load]]:
    """Run all cases one after the other, ``rounds`` times, and once briefly before, unmeasured."""
    for case in cases.values():
        case(seconds / 10)
    loads: dict[str, list[Load]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            loads[name].append(case(seconds))
    return loads


def middle(loads: Sequence[Load], figure: str) -> float:
    """Give the median of the rounds, of one of Load's figures."""
    return median(float(getattr(load, figure)) for load in loads)


def ratios(own: Sequence[Load], other: Sequence[Load], figure: str) -> list[float]:
    """Give the ratio of one of Load's figures within each round."""
    pairs = zip(own, other, strict=True)
    return [float(getattr(mine, figure) / getattr(theirs, figure)) for mine, theirs in pairs]


def spread(numbers: Sequence[float]) -> float:
    """How far rounds lie apart: largest less least, relative to the median."""
    return (max(numbers) - min(numbers)) / median(numbers)
