"""Time of several cases, measured in turns, so that what disturbs the machine disturbs all."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Samples", "cpu_clock", "family_clock", "in_turns"]

LEAST_S = 0.05
"""Shortest time that is measured in one piece: shorter ones say more of what else goes on."""
LONG_S = 0.3
"""Runs this long are not repeated to warm up: what they find cold is little of them."""


@dataclass(frozen=True)
class Samples:
    """What one case took in each round, in milliseconds."""

    cpu: list[float] = field(default_factory=list)
    """CPU time of the process that computes: the steadier figure where a machine is shared."""
    wall: list[float] = field(default_factory=list)

    def add(self, cpu_s: float, wall_s: float) -> None:
        """Add a round."""
        self.cpu.append(cpu_s * 1000)
        self.wall.append(wall_s * 1000)

    @property
    def cpu_ms(self) -> float:
        """The median of the CPU times."""
        return median(self.cpu)

    @property
    def wall_ms(self) -> float:
        """The median of the wall times."""
        return median(self.wall)

    @property
    def spread(self) -> float:
        """How far the rounds' CPU times lie apart: largest less least, relative to the median."""
        return (max(self.cpu) - min(self.cpu)) / self.cpu_ms

    def ratio_to(self, other: Samples) -> float:
        """CPU time relative to another case's: the median of the ratios within each round."""
        return median(own / theirs for own, theirs in zip(self.cpu, other.cpu, strict=True))


def in_turns(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Samples]:
    """Run all cases one after the other, ``rounds`` times.

    ``clock``: CPU seconds of the process that computes. Short cases are run once unmeasured, and
    then, in each of their turns, as often as it takes to fill LEAST_S; what counts is the mean. Of
    cases longer than LONG_S even the first run counts.
    """
    samples = {name: Samples() for name in cases}
    repeats = {}
    for name, case in cases.items():
        cpu, wall = _timed(case, 1, clock)
        repeats[name] = 1 + int(LEAST_S / wall)
        if wall > LONG_S:
            samples[name].add(cpu, wall)
    for turn in range(rounds):
        for name, case in cases.items():
            if len(samples[name].cpu) <= turn:
                samples[name].add(*_timed(case, repeats[name], clock))
    return samples


def _timed(
    case: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Give CPU and wall seconds of one run."""
    cpu, wall = clock(), time.perf_counter()
    for _ in range(repeats):
        case()
    return (clock() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def cpu_clock(process_id: int) -> Callable[[], float]:
    """Give a clock of another process's CPU seconds, of all its threads, fine as our own."""
    clock_id = (~process_id << 3) | 2  # as clock_getcpuclockid(3) makes it on Linux
    return lambda: time.clock_gettime(clock_id)


def family_clock(process_id: int) -> Callable[[], float]:
    """Give a clock of the CPU seconds of a process and of all processes now below it."""
    clocks = [cpu_clock(member) for member in _family(process_id)]
    return lambda: sum(clock() for clock in clocks)


def _family(process_id: int) -> list[int]:
    members = [process_id]
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in children.read_text().split():
            members += _family(int(child))
    return members
