"""The report as text for the terminal."""

from __future__ import annotations

import textwrap
from dataclasses import fields
from typing import TYPE_CHECKING

from polyhead.bench.report.summary import Distribution
from polyhead.cli.table import as_table

if TYPE_CHECKING:
    from polyhead.bench.plan import Plan, Target, Workload
    from polyhead.bench.report.summary import GeneratorCost, ServerSide, Summary
    from polyhead.bench.search.max_rate import MaxRate, Objective

__all__ = [
    "format_summary",
    "describe_found",
    "describe_load",
    "describe_plan",
    "format_lengths",
    "format_search",
    "format_throughput",
]

_HEADINGS = tuple(field.name.replace("_", ".") for field in fields(Distribution))
_WIDTH = 96


def format_summary(summary: Summary) -> str:
    """Format a run's figures as tables."""
    if not summary.requests:
        return "nothing was measured\n"
    lines = [
        ("requests", f"{_format_counts(summary)}, in {summary.elapsed_s:.2f} s"),
        ("throughput", format_throughput(summary)),
    ]
    if server := summary.server:
        lines.append(("server", _format_server(server)))
    lines.append(("generator", _format_generator(summary.generator)))
    blocks = ["".join(f"{name:<12}{text}\n" for name, text in lines)]
    rows = [
        (name, *(f"{getattr(times, field.name):.2f}" for field in fields(Distribution)))
        for name, times in (
            ("latency ms", summary.latency_ms),
            ("errors' ms", summary.error_latency_ms),
        )
        if times
    ]
    if rows:
        blocks.append(f"{as_table([('', *_HEADINGS), *rows], str.rjust)}\n")
    if summary.errors:
        table = [
            ("COUNT", "CODE", "REASON"),
            *((f"{error.count:,}", error.code, error.reason or "-") for error in summary.errors),
        ]
        blocks.append(f"{as_table(table)}\n{_wrap(f'such as: {summary.errors[0].message}')}")
    blocks += [_wrap(f"warning: {warning}") for warning in summary.warnings]
    return "\n".join(blocks)


def format_throughput(summary: Summary) -> str:
    """Format requests and tokens per second."""
    return f"{summary.requests_per_s:,.1f} requests/s, {summary.tokens_per_s:,.0f} tokens/s"


def describe_load(target: Target, workload: Workload) -> str:
    """Describe target and workload in one line."""
    tokens = format_lengths(workload.lengths)
    weights = ", with attention weights" if workload.need_weights else ""
    streams = ", over streams" if target.transport == "stream" else ""
    return (
        f"{workload.model}, version {workload.version}, at {target.server}: "
        f"{workload.batch_size} x {tokens} tokens, {workload.dtype}{weights}{streams}"
    )


def describe_plan(plan: Plan, processes: int) -> str:
    """Describe the plan in one line."""
    if plan.rate is None:
        loop = f"closed loop, {plan.concurrency} in flight"
    else:
        loop = f"open loop, {plan.rate:g} requests/s, {plan.arrivals} arrivals"
    extent = f"{plan.duration_s:g} s" if plan.requests is None else f"{plan.requests:,} requests"
    return f"{loop}; {extent} after {plan.warmup_s:g} s of warm-up; processes: {processes}"


def format_search(max_rate: MaxRate) -> str:
    """Format a search's steps, and the figures of its last verification."""
    rows = [("STEP", "RATE/S", "P99 MS", "FAILED", "VERDICT")]
    for step in max_rate.search.steps:
        p99 = "-" if step.p99_ms is None else f"{step.p99_ms:.1f}"
        verdict = "within" if step.is_within else "beyond"
        if step.reason:
            verdict += f": {step.reason}"
        if step.is_cut_short:
            verdict += ", cut short"
        rows.append((step.purpose, f"{step.rate:g}", p99, f"{step.failed:,}", verdict))
    text = f"{as_table(rows, folded=(4,))}\n"
    if max_rate.verification:
        text += f"\nThe last verification:\n\n{format_summary(max_rate.verification)}"
    return text


def describe_found(max_rate: MaxRate, objective: Objective) -> str:
    """State the result of a search in one sentence."""
    goal = f"p99 within {objective.slo_p99_s * 1e3:g} ms and no errors"
    search = max_rate.search
    if search.rate and max_rate.verification:
        return (
            f"The highest rate with {goal} is {search.rate:,.4g} requests/s "
            f"({max_rate.verification.tokens_per_s:,.0f} tokens/s), to within "
            f"{objective.precision:.0%}; two further runs confirmed it."
        )
    if search.is_complete:
        return f"No rate was found with {goal}."
    best = max((step.rate for step in search.steps if step.is_within), default=None)
    outcome = f"{best:,.4g} requests/s kept {goal} once" if best else f"no rate has kept {goal}"
    return f"The search ended early, after {len(search.steps)} steps: {outcome}."


def format_lengths(lengths: tuple[int, ...]) -> str:
    """Format lengths as --tokens takes them."""
    if len(lengths) > 1 and lengths == tuple(range(lengths[0], lengths[-1] + 1)):
        return f"{lengths[0]}..{lengths[-1]}"
    return ",".join(map(str, lengths))


def _format_counts(summary: Summary) -> str:
    parts = [f"{summary.answered:,} answered", f"{summary.failed:,} failed"]
    if summary.unfinished:
        parts.append(f"{summary.unfinished:,} unfinished")
    return ", ".join(parts)


def _format_server(server: ServerSide) -> str:
    times = f"queue {server.queue_ms_p50:.3f} ms, compute {server.compute_ms_p50:.3f} ms"
    return f"median {times}; mean batch size {server.batch_size_mean:.2f}"


def _format_generator(generator: GeneratorCost) -> str:
    parts = [f"{generator.busiest_core_share:.0%} of a core at most, in one process"]
    if generator.cpu_ms_per_request is not None:
        parts.insert(0, f"{generator.cpu_ms_per_request:.3f} ms of CPU time per request")
    return ", ".join(parts)


def _wrap(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent="  ") + "\n"
