"""The target, the workload and the plan: values that are sent to the processes of a fleet."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from polyhead.results import Weights

__all__ = ["Arrivals", "Plan", "Target", "Transport", "Workload"]

Arrivals: TypeAlias = Literal["poisson", "constant"]
Transport: TypeAlias = Literal["unary", "stream"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The server under load, and how to reach it."""

    server: str
    """Host and port."""
    timeout_s: float
    """Longest time to wait for one response."""
    transport: Transport = "unary"
    """``unary``: one call for each request. ``stream``: all requests over streams."""
    connections: int = 1
    """Number of connections that each process opens."""
    security: dict[str, Any] = field(default_factory=dict, repr=False)
    """The client's arguments for TLS and token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The requests of a run. Every process sends the same ones, in another order."""

    model: str
    """Name of the model."""
    version: int
    """Its version."""
    widths: tuple[int, int | None, int | None]
    """Last axis of query, key and value; None for an array that is not sent."""
    lengths: tuple[int, ...]
    """Sequence lengths in tokens; equally many requests have each."""
    batch_size: int
    """Number of sequences in a request."""
    dtype: str
    """NumPy's name of the embeddings' dtype."""
    need_weights: bool | Weights
    """Which attention weights are requested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The load of a run: a closed loop, or an open loop if it has a rate."""

    concurrency: int = 16
    """Closed loop: number of requests in flight at any time."""
    rate: float | None = None
    """Open loop: requests due per second; None means closed loop."""
    arrivals: Arrivals = "poisson"
    """Open loop: random, as from many independent users, or evenly spaced."""
    max_in_flight: int = 1024
    """Open loop: most requests in flight; further ones wait, which counts as latency."""
    max_wait_s: float = 60.0
    """Open loop: a request that could not be sent within this time has failed."""
    warmup_s: float = 1.0
    """Duration of the unmeasured load before the measurement."""
    duration_s: float | None = 10.0
    """Duration of the measurement; None means until `requests` have been sent."""
    requests: int | None = None
    """Number of measured requests; None means as many as fit into the duration. If both are given,
    an open loop spreads the requests over the duration."""
    slow_after_s: float | None = None
    """Count responses slower than this in Progress.slow; if None, count nothing."""
    seed: int = 0
    """Seed of the random due times."""
    phase: float = 0.0
    """Evenly spaced arrivals: delay of the first one, as a share of the interval."""

    @property
    def schedule(self) -> tuple[int, float]:
        """Open loop: number of requests due in the measurement, and its duration in seconds."""
        assert self.rate is not None
        if self.duration_s is None:
            assert self.requests is not None
            return self.requests, self.requests / self.rate
        count = round(self.rate * self.duration_s) if self.requests is None else self.requests
        return count, self.duration_s

    def share(self, index: int, processes: int) -> Plan:
        """Return the plan of one of several processes, which together carry out this one."""
        # Rounded before the split, because shares rounded one by one need not add up to the total.
        requests, duration_s = self.schedule if self.rate else (self.requests, self.duration_s)
        return replace(
            self,
            concurrency=_share_of(self.concurrency, index, processes),
            rate=None if self.rate is None else self.rate / processes,
            max_in_flight=_share_of(self.max_in_flight, index, processes),
            duration_s=duration_s,
            requests=None if requests is None else _share_of(requests, index, processes),
            seed=self.seed * processes + index,
            phase=index / processes,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields for the JSON report: only those that apply to this loop."""
        fields = asdict(self)
        unused = ("concurrency",) if self.rate else ("rate", "arrivals", "max_in_flight")
        for name in (*unused, "max_wait_s", "slow_after_s", "phase"):
            del fields[name]
        return {"loop": "open" if self.rate else "closed", **fields}


def _share_of(total: int, index: int, parts: int) -> int:
    """Return one of `parts` integers that sum to `total` and differ by at most one."""
    return total // parts + (index < total % parts)
