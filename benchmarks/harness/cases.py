"""Cases, which take turns, and the measurements of each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import nan
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "Case",
    "Measurement",
    "measure_in_turns",
    "median_of",
    "ratios",
    "repeat_function",
    "spread",
]


@dataclass(frozen=True)
class Measurement:
    """The cost of one case's requests in one round."""

    requests: int
    wall_s: float
    cpu_s: float
    """CPU time of the server with its children, or of this process for a case without server."""
    client_cpu_s: float = 0.0
    """CPU time of the load generator."""
    p50_ms: float = nan
    """Median latency, if the generator reports it."""

    @property
    def cpu_ms(self) -> float:
        """CPU time per request."""
        return self.cpu_s / self.requests * 1000

    @property
    def client_cpu_ms(self) -> float:
        """The generator's CPU time per request."""
        return self.client_cpu_s / self.requests * 1000

    @property
    def wall_ms(self) -> float:
        """Wall time divided by the number of requests."""
        return self.wall_s / self.requests * 1000

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.wall_s

    @property
    def rate_per_cpu(self) -> float:
        """Requests per CPU second of the server."""
        return self.requests / self.cpu_s


Case: TypeAlias = "Callable[[float], Measurement]"
"""Measures for about the given number of seconds."""


def repeat_function(function: Callable[[], object], requests: int = 1) -> Case:
    """Make a case that repeats a function in this process. Each call serves ``requests``."""

    def measure(seconds: float) -> Measurement:
        done, cpu, start = 0, time.process_time(), time.perf_counter()
        while not done or time.perf_counter() - start < seconds:
            function()
            done += requests
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        return Measurement(done, wall_s, cpu_s, p50_ms=wall_s / done * 1000)

    return measure


def measure_in_turns(
    cases: Mapping[str, Case], rounds: int, seconds: float
) -> dict[str, list[Measurement]]:
    """Measure all cases in turn, ``rounds`` times, after a short unmeasured warm-up of each."""
    for case in cases.values():
        case(seconds / 10)
    measurements: dict[str, list[Measurement]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            measurements[name].append(case(seconds))
    return measurements


def median_of(measurements: Sequence[Measurement], figure: str) -> float:
    """Return the median over the rounds of one of Measurement's figures."""
    return median(float(getattr(measured, figure)) for measured in measurements)


def ratios(
    numerators: Sequence[Measurement], denominators: Sequence[Measurement], figure: str
) -> list[float]:
    """Return the ratio of one of Measurement's figures within each round."""
    pairs = zip(numerators, denominators, strict=True)
    return [float(getattr(one, figure) / getattr(other, figure)) for one, other in pairs]


def spread(numbers: Sequence[float]) -> float:
    """Return the range of the rounds, relative to their median."""
    return (max(numbers) - min(numbers)) / median(numbers)
