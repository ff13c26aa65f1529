"""Computes the calls a second that a machine answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.capacity.results import Results
    from benchmarks.capacity.work import Work

__all__ = ["SHARE", "Capacity", "Machine", "capacity"]

SHARE = 0.7
"""Share of CPU and network that calls may use. By the formula for one server and calls of equal
length, s / (2 - 2 s) times its own run, a call waits 1.2 times at 0.7, and 4.5 times at 0.9."""


@dataclass(frozen=True)
class Machine:
    """A machine that runs servers."""

    cores: int = 16
    memory_gib: float = 64
    gigabits: float = 25
    """Of its network, a second, each way."""


@dataclass(frozen=True)
class Capacity:
    """The calls of one kind that one machine answers, by each of its limits."""

    cpu_ms: float
    """The servers' CPU time of a call."""
    core: float
    """Calls a second of a core whose whole time they take."""
    by_cpu: float
    """Calls a second of the machine, by its CPUs at SHARE."""
    by_network: float
    """Calls a second of the machine, by the busier direction of its network."""
    envoy_cores: float
    """Cores that Envoy needs for what the machine answers."""
    gigabits: float
    """Gigabits a second of what the machine answers, in the busier direction."""

    @property
    def calls(self) -> float:
        """Number of calls a second that the machine answers."""
        return min(self.by_cpu, self.by_network)

    @property
    def first(self) -> str:
        """The limit that is reached first."""
        return "CPU" if self.by_cpu <= self.by_network else "network"


def capacity(results: Results, work: Work, machine: Machine) -> Capacity:
    """Compute the capacity of a machine for a kind of call."""
    cpu_ms = results.number(work.section, work.row, work.column)
    core = 1000 / cpu_ms
    by_cpu = core * SHARE * machine.cores * results.workers_gain()
    bits = 8 * max(work.bytes_in, work.bytes_out)
    by_network = machine.gigabits * 1e9 * SHARE / bits
    calls = min(by_cpu, by_network)
    envoy_ms = results.envoy_ms((work.bytes_in + work.bytes_out) / 1e6)
    return Capacity(
        cpu_ms, core, by_cpu, by_network, calls * envoy_ms / 1000 / SHARE, calls * bits / 1e9
    )
