"""CPU and wall time of functions that take turns, and CPU clocks of other processes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["CaseTimes", "cpu_clock", "process_tree_clock", "time_in_turns"]

MIN_MEASURED_S = 0.05
"""Shorter cases are repeated for this long, because single short times are mostly noise."""
NO_WARM_UP_S = 0.3
"""Longer cases need no warm-up, because cold caches hardly affect them."""


@dataclass(frozen=True)
class CaseTimes:
    """The times of one case in each round, in milliseconds."""

    cpu: list[float] = field(default_factory=list)
    """CPU time of the computing process: steadier than wall time on a shared machine."""
    wall: list[float] = field(default_factory=list)

    def add(self, cpu_s: float, wall_s: float) -> None:
        """Add the times of a round."""
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
        """The range of the rounds' CPU times, relative to their median."""
        return (max(self.cpu) - min(self.cpu)) / self.cpu_ms

    def ratio_to(self, other: CaseTimes) -> float:
        """Return the median over the rounds of the ratio to another case's CPU time."""
        return median(one / another for one, another in zip(self.cpu, other.cpu, strict=True))


def time_in_turns(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, CaseTimes]:
    """Run all cases in turn, ``rounds`` times.

    ``clock`` returns the CPU seconds of the computing process. Short cases run once unmeasured, and
    then in each turn as often as fits into MIN_MEASURED_S, and the mean counts. The first run of
    cases longer than NO_WARM_UP_S counts as a round.
    """
    samples = {name: CaseTimes() for name in cases}
    repeats = {}
    for name, case in cases.items():
        cpu, wall = _timed(case, 1, clock)
        repeats[name] = 1 + int(MIN_MEASURED_S / wall)
        if wall > NO_WARM_UP_S:
            samples[name].add(cpu, wall)
    for turn in range(rounds):
        for name, case in cases.items():
            if len(samples[name].cpu) <= turn:
                samples[name].add(*_timed(case, repeats[name], clock))
    return samples


def _timed(
    case: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the mean CPU and wall seconds of a case."""
    cpu, wall = clock(), time.perf_counter()
    for _ in range(repeats):
        case()
    return (clock() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def cpu_clock(process_id: int) -> Callable[[], float]:
    """Return a clock of the CPU seconds of another process, with nanosecond resolution."""
    clock_id = (~process_id << 3) | 2  # the id that clock_getcpuclockid(3) returns on Linux
    return lambda: time.clock_gettime(clock_id)


def process_tree_clock(process_id: int) -> Callable[[], float]:
    """Return a clock of the CPU seconds of a process and its current descendants."""
    clocks = [cpu_clock(member) for member in _process_tree(process_id)]
    return lambda: sum(clock() for clock in clocks)


def _process_tree(process_id: int) -> list[int]:
    members = [process_id]
    for children in Path(f"/proc/{process_id}/task").glob("*/children"):
        for child in children.read_text().split():
            members += _process_tree(int(child))
    return members
