"""Runs the search with a fleet: each step is a run, judged by the objective."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyhead.bench.report.summary import Summary, summarise
from polyhead.bench.search.bisection import MAX_STEPS, MIN_REQUESTS, SearchResult, Step, find_max

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead.bench.fleet import Fleet
    from polyhead.bench.plan import Plan
    from polyhead.bench.report.progress import Display
    from polyhead.bench.worker import Progress

__all__ = ["MaxRate", "Objective", "search_max"]

_MAX_SLOW_SHARE = 0.02
"""Share of the expected answers: if more are too slow, p99 is certainly beyond the objective."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """The limit on p99, and the precision of the rate."""

    slo_p99_s: float
    """Longest p99 latency, from when requests were due."""
    precision: float
    """Largest difference between the highest rate within and the lowest beyond, as a share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxRate:
    """The result of a search, with the figures of its last verification."""

    search: SearchResult
    verification: Summary | None
    """None if no verification was within the objective."""


def search_max(fleet: Fleet, plan: Plan, objective: Objective, display: Display) -> MaxRate:
    """Find the highest rate within the objective; the plan's rate is tried first.

    A step lasts as long as the plan, or until there are enough requests for a p99. It is cut short
    when it can no longer be within the objective. Ctrl-C ends the search: see fleet.is_interrupted.
    """
    assert plan.rate is not None
    assert plan.duration_s is not None
    summaries: list[Summary] = []

    def measure(rate: float, purpose: str, num_left: int) -> Step | None:
        step_plan = _step_plan(plan, rate, objective, number=len(summaries))
        # The others' rates are at most twice this one, and their runs perhaps shorter for it.
        left_s = num_left * _duration_s(_step_plan(plan, 2 * rate, objective, number=0))
        samples = fleet.run(step_plan, _make_watch(step_plan, purpose, left_s, display))
        if fleet.is_interrupted:
            return None
        summary = summarise(samples, step_plan)
        step = _judge(rate, purpose, summary, objective, is_cut_short=samples.is_stopped)
        summaries.append(summary)
        display.line(_describe_step(len(summaries), step, left_s))
        return step

    search = find_max(measure, first_rate=plan.rate, precision=objective.precision)
    at_rate = [
        summary
        for step, summary in zip(search.steps, summaries, strict=True)
        if step.rate == search.rate and step.is_within
    ]
    return MaxRate(search=search, verification=at_rate[-1] if at_rate else None)


def _step_plan(plan: Plan, rate: float, objective: Objective, *, number: int) -> Plan:
    assert plan.duration_s is not None
    return replace(
        plan,
        rate=rate,
        duration_s=max(plan.duration_s, MIN_REQUESTS / rate),
        slow_after_s=objective.slo_p99_s,
        seed=plan.seed * MAX_STEPS + number,  # a verification must be a new sample
    )


def _duration_s(plan: Plan) -> float:
    """Return the duration of a step that is not ended early."""
    assert plan.duration_s is not None
    return plan.warmup_s + plan.duration_s


def _make_watch(
    plan: Plan, purpose: str, left_s: float, display: Display
) -> Callable[[Progress], bool]:
    """Make the callback that shows a step's progress and ends it once it cannot succeed.

    ``left_s``: how long the search takes at least after this step.
    """
    assert plan.rate is not None
    assert plan.duration_s is not None
    max_slow = _MAX_SLOW_SHARE * plan.rate * plan.duration_s
    started, total_s = time.monotonic(), _duration_s(plan)

    def watch(progress: Progress) -> bool:
        passed_s = time.monotonic() - started
        left = _format_left(max(total_s - passed_s, 0) + left_s)
        text = f"{purpose}: {plan.rate:g} requests/s, {progress.slow:,} slow{left}"
        display.update(passed_s / total_s, text)
        return not progress.failed and progress.slow <= max_slow

    return watch


def _judge(
    rate: float, purpose: str, summary: Summary, objective: Objective, *, is_cut_short: bool
) -> Step:
    p99_ms = summary.latency_ms.p99 if summary.latency_ms else None
    is_fast = p99_ms is not None and p99_ms <= objective.slo_p99_s * 1e3
    return Step(
        rate=rate,
        p99_ms=p99_ms,
        failed=summary.failed,
        is_within=is_fast and not summary.failed and not is_cut_short,
        is_cut_short=is_cut_short,
        purpose=purpose,
        reason=_reason(summary, objective),
    )


def _reason(summary: Summary, objective: Objective) -> str:
    """Explain why a run is not within the objective; empty if it is."""
    if summary.errors:
        most = summary.errors[0]
        return f"{summary.failed:,} failed, {most.reason or most.code}"
    if summary.latency_ms is None:
        return "nothing was answered"
    slo_ms = objective.slo_p99_s * 1e3
    return f"p99 above {slo_ms:g} ms" if summary.latency_ms.p99 > slo_ms else ""


def _format_left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"; at least {text} more" if seconds else ""


def _describe_step(number: int, step: Step, left_s: float) -> str:
    p99 = "no p99" if step.p99_ms is None else f"p99 {step.p99_ms:.1f} ms"
    reasons = [step.reason] if step.reason else []
    if step.is_cut_short:
        reasons.append("cut short")
    verdict = "within" if step.is_within else f"beyond ({', '.join(reasons)})"
    return (
        f"step {number} of {MAX_STEPS} at most, {step.purpose}: {step.rate:g} requests/s, "
        f"{p99}: {verdict}{_format_left(left_s)}"
    )
