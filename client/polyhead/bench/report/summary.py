"""Counts, rates and percentiles of samples, the generator's own cost, and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead.bench.plan import Plan
    from polyhead.bench.samples import Samples

__all__ = [
    "BUSY_SHARE",
    "LATE_S",
    "LONG_SHARE",
    "Distribution",
    "ErrorCount",
    "GeneratorCost",
    "ServerSide",
    "Summary",
    "percentile",
    "summarise",
]

BUSY_SHARE = 0.85
"""A process that uses more of a core than this may itself limit the load."""
LONG_SHARE = 0.05
"""Share of the run's duration: with a longer p99, chance at the run's end moves throughput."""
LATE_S = 0.005
"""If sends are later than this, the load is no longer the requested one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Distribution of times, in milliseconds; each percentile is one of the samples."""

    mean: float
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCount:
    """Number of failures with one gRPC status and reason."""

    code: str
    reason: str
    count: int
    message: str
    """Message of the first one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSide:
    """Times and batch sizes that the server reported in its responses."""

    queue_ms_p50: float
    compute_ms_p50: float
    batch_size_mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorCost:
    """The resources that the load generator used."""

    processes: int
    cpu_ms_per_request: float | None
    """CPU time of all processes per finished request; None if no request finished."""
    busiest_core_share: float
    """CPU time of the busiest process, divided by elapsed_s."""
    send_lag_ms: Distribution | None
    """How late the generator sent requests; None if it sent none."""
    held_back: int
    """Number of requests that waited because max_in_flight others were in flight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A run's figures. Its counts add up: requests = answered + failed + unfinished."""

    requests: int
    answered: int
    failed: int
    unfinished: int
    """Requests still in flight when the run was ended early."""
    arrived: int
    """Answers that came within elapsed_s, including those to warm-up requests."""
    elapsed_s: float
    """The plan's duration; if it gives a number of requests, the time to the last answer."""
    requests_per_s: float
    """arrived / elapsed_s."""
    tokens_per_s: float
    """Queries in these answers, per second."""
    latency_ms: Distribution | None
    """Latency of answers; None without answers."""
    error_latency_ms: Distribution | None
    """Latency of failures; None without failures."""
    errors: tuple[ErrorCount, ...]
    """Most frequent first."""
    server: ServerSide | None
    generator: GeneratorCost
    warnings: tuple[str, ...]
    """Reasons to distrust the figures."""


def percentile(ascending: NDArray[np.float64], per_mille: int) -> float:
    """Return the nearest-rank percentile: the smallest sample that this share does not exceed.

    ``ascending``: all samples, sorted. ``per_mille`` is an integer so that the rank is exact: 990
    of 1000 samples is the 990th.
    """
    rank = -(-len(ascending) * per_mille // 1000)
    return float(ascending[max(rank, 1) - 1])


def summarise(samples: Samples, plan: Plan) -> Summary:
    """Compute a run's figures."""
    answered, failed = len(samples.answers), len(samples.failures)
    elapsed_s = samples.elapsed_s
    generator = _generator_cost(samples)
    latency_ms = _distribution_ms(samples.answers[:, 1])
    return Summary(
        requests=samples.sent,
        answered=answered,
        failed=failed,
        unfinished=samples.unfinished,
        arrived=samples.arrived,
        elapsed_s=elapsed_s,
        requests_per_s=samples.arrived / elapsed_s if elapsed_s else 0.0,
        tokens_per_s=samples.arrived_tokens / elapsed_s if elapsed_s else 0.0,
        latency_ms=latency_ms,
        error_latency_ms=_distribution_ms(samples.failures[:, 1]),
        errors=_error_counts(samples),
        server=_server_side(samples),
        generator=generator,
        warnings=(
            *_throughput_warnings(latency_ms, elapsed_s),
            *_generator_warnings(generator, plan),
        ),
    )


def _distribution_ms(seconds: NDArray[np.float64]) -> Distribution | None:
    if not len(seconds):
        return None
    ascending = np.sort(seconds) * 1e3
    return Distribution(
        mean=float(ascending.mean()),
        p50=percentile(ascending, 500),
        p90=percentile(ascending, 900),
        p99=percentile(ascending, 990),
        p99_9=percentile(ascending, 999),
        max=float(ascending[-1]),
    )


def _error_counts(samples: Samples) -> tuple[ErrorCount, ...]:
    types = samples.failures[:, 2].astype(np.intp)
    counts = np.bincount(types, minlength=len(samples.error_types))
    counted = [
        ErrorCount(
            code=error_type.code, reason=error_type.reason, count=int(count), message=message
        )
        for error_type, message, count in zip(
            samples.error_types, samples.error_messages, counts, strict=True
        )
    ]
    return tuple(sorted(counted, key=lambda error: -error.count))


def _server_side(samples: Samples) -> ServerSide | None:
    if not len(samples.answers):
        return None
    queue_ms, compute_ms, batch_size = samples.answers[:, 3:].T
    return ServerSide(
        queue_ms_p50=percentile(np.sort(queue_ms), 500),
        compute_ms_p50=percentile(np.sort(compute_ms), 500),
        batch_size_mean=float(batch_size.mean()),
    )


def _generator_cost(samples: Samples) -> GeneratorCost:
    num_finished = len(samples.answers) + len(samples.failures)
    elapsed_s = samples.elapsed_s
    return GeneratorCost(
        processes=len(samples.cpu_s),
        cpu_ms_per_request=sum(samples.cpu_s) / num_finished * 1e3 if num_finished else None,
        busiest_core_share=max(samples.cpu_s) / elapsed_s if elapsed_s else 0.0,
        send_lag_ms=_distribution_ms(samples.lags),
        held_back=samples.held_back,
    )


def _throughput_warnings(latency_ms: Distribution | None, elapsed_s: float) -> list[str]:
    if latency_ms is None or latency_ms.p99 <= LONG_SHARE * elapsed_s * 1e3:
        return []
    suggested_s = math.ceil(latency_ms.p99 / 1e3 / LONG_SHARE)
    warning = (
        f"the run was short for a p99 of {latency_ms.p99:,.0f} ms: throughput depends on which "
        f"answers fell just inside it; try --duration {suggested_s}, and a --warmup longer than p99"
    )
    return [warning]


def _generator_warnings(generator: GeneratorCost, plan: Plan) -> list[str]:
    warnings = []
    share, more = generator.busiest_core_share, generator.processes + 1
    if share > BUSY_SHARE:
        warnings.append(
            f"the generator was busy for {share:.0%} of the time, in one process: it may be what "
            f"limits these figures, not the server; try --processes {more}, on a machine with "
            "cores to spare"
        )
    lag = generator.send_lag_ms
    if plan.rate is not None and lag and lag.p99 > LATE_S * 1e3:
        warnings.append(
            f"requests were sent late: 1 in 100 by {lag.p99:.1f} ms or more, and over "
            f"{LATE_S * 1e3:g} ms the generator shapes the latencies too, not the server alone; "
            f"try a lower --rate, --processes {more} or a machine less busy"
        )
    if generator.held_back:
        warnings.append(
            f"{generator.held_back:,} requests had to wait, as {plan.max_in_flight:,} were in "
            "flight: the server is overloaded, or --max-in-flight too low; their latency counts "
            "from when they were due"
        )
    return warnings
