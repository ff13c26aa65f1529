"""What to load, with what, and how hard: values that travel to the processes of a fleet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from polyhead.results import Weights

__all__ = ["Arrivals", "Plan", "Target", "Transport", "Workload"]

Arrivals: TypeAlias = Literal["poisson", "constant"]
Transport: TypeAlias = Literal["unary", "stream"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A server, and how to reach it."""

    server: str
    """Host and port."""
    timeout_s: float
    """Longest time to wait for one answer."""
    transport: Transport = "unary"
    """One call for each request, or all requests over streams."""
    connections: int = 1
    """Connections that each process opens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What the requests are: the same in every process, but for their order."""

    model: str
    """Name of the model."""
    version: int
    """Its version."""
    widths: tuple[int, int | None, int | None]
    """Last axis of query, key and value; None: not sent, as the model needs none."""
    lengths: tuple[int, ...]
    """Tokens of a sequence: equal shares of the requests have each length."""
    batch_size: int
    """Sequences of a request."""
    dtype: str
    """Of the embeddings, as NumPy calls it."""
    need_weights: bool | Weights
    """Which attention weights are asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One run of load: a closed loop, or an open one if there is a rate."""

    concurrency: int = 16
    """Closed loop: requests under way at any time."""
    rate: float | None = None
    """Open loop: requests a second, sent when they are due; None: closed loop."""
    arrivals: Arrivals = "poisson"
    """Open loop: independent of each other, as of many users, or evenly spaced."""
    max_in_flight: int = 1024
    """Open loop: most requests under way at once; those beyond wait, and their waiting counts."""
    patience_s: float = 60.0
    """Open loop: a request that has waited so long without being sent has failed."""
    warmup_s: float = 1.0
    """Load before the measurement, which is not measured."""
    duration_s: float | None = 10.0
    """How long the measurement lasts; None: until enough requests have been sent."""
    requests: int | None = None
    """How many requests are measured; None: as many as the time allows. Given a duration too, an
    open loop spreads so many over it."""
    slow_s: float | None = None
    """Count answers that took longer, for whoever watches the run; None: none."""
    seed: int = 0
    """Of the times at which requests are due."""
    phase: float = 0.0
    """Evenly spaced arrivals: by what part of the interval between two the first is late."""

    @property
    def schedule(self) -> tuple[int, float]:
        """Open loop: how many requests are due in the measurement, within how many seconds."""
        assert self.rate is not None
        if self.duration_s is None:
            assert self.requests is not None
            return self.requests, self.requests / self.rate
        count = round(self.rate * self.duration_s) if self.requests is None else self.requests
        return count, self.duration_s

    def share(self, index: int, processes: int) -> Plan:
        """Give what one of several processes does, so that together they do this."""
        # Rounded once, for all: the shares of a rate, rounded each, need not add up to it.
        requests, duration_s = self.schedule if self.rate else (self.requests, self.duration_s)
        return replace(
            self,
            concurrency=_part(self.concurrency, index, processes),
            rate=None if self.rate is None else self.rate / processes,
            max_in_flight=_part(self.max_in_flight, index, processes),
            duration_s=duration_s,
            requests=None if requests is None else _part(requests, index, processes),
            seed=self.seed * processes + index,
            phase=index / processes,
        )

    def as_json(self) -> dict[str, Any]:
        """Give what a report says of the plan: only what has a meaning for its kind of loop."""
        facts = asdict(self)
        unused = ("concurrency",) if self.rate else ("rate", "arrivals", "max_in_flight")
        for name in (*unused, "patience_s", "slow_s", "phase"):
            del facts[name]
        return {"loop": "open" if self.rate else "closed", **facts}


def _part(total: int, index: int, parts: int) -> int:
    """Cut a whole number into parts that differ by one at most and sum to it."""
    return total // parts + (index < total % parts)
