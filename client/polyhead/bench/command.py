"""Carries out `polyhead bench`: from parsed arguments to the report."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from polyhead._version import __version__
from polyhead._viz.matplotlib_import import import_matplotlib
from polyhead.bench.fleet import start_fleet
from polyhead.bench.plan import Plan, Target
from polyhead.bench.prepare import prepare_workload
from polyhead.bench.report import text
from polyhead.bench.report.progress import show_progress
from polyhead.bench.report.summary import summarise
from polyhead.bench.search.bisection import FIRST_RATE
from polyhead.bench.search.max_rate import Objective, search_max
from polyhead.cli.command import UsageError
from polyhead.cli.output_paths import check_png, writing
from polyhead.cli.shared_arguments import client_arguments
from polyhead.errors import MissingExtraError
from polyhead.results import Weights

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from polyhead.bench.fleet import Fleet
    from polyhead.bench.plan import Workload
    from polyhead.bench.report.progress import Display
    from polyhead.bench.worker import Progress

__all__ = ["run_bench"]


def run_bench(arguments: Namespace) -> int:
    """Load a server by the command line's arguments, write the report, and return the exit status.

    1: no request was answered, or no rate met the objective. 130: Ctrl-C ended the run early; the
    report has the measurements until then.
    """
    if arguments.plot:
        _check_plot(arguments.plot)
    target, plan = _make_target(arguments), _make_plan(arguments)
    workload = asyncio.run(
        prepare_workload(
            target,
            model=arguments.model,
            version=arguments.model_version,
            lengths=arguments.tokens,
            batch_size=arguments.batch_size,
            dtype=arguments.dtype,
            need_weights=_need_weights(arguments),
        )
    )
    load_fields = _describe_load(target, workload, plan)
    title = text.describe_load(target, workload)
    with start_fleet(target, workload, arguments.processes) as fleet:
        if arguments.find_max:
            status = _find_max(fleet, plan, arguments, load_fields, title)
        else:
            status = _measure(fleet, plan, arguments, load_fields, title)
        return 130 if fleet.is_interrupted else status


def _measure(
    fleet: Fleet, plan: Plan, arguments: Namespace, load_fields: dict[str, Any], title: str
) -> int:
    """Carry out one run, and report it."""
    with show_progress() as display:
        samples = fleet.run(plan, _make_watch(plan, display))
    summary = summarise(samples, plan)
    how = text.describe_plan(plan, arguments.processes)
    if arguments.json:
        _print_json(load_fields | {"is_interrupted": fleet.is_interrupted} | asdict(summary))
    else:
        sys.stdout.write(f"{title}\n{how}\n\n{text.format_summary(summary)}")
    if arguments.plot:
        import_matplotlib()
        from polyhead.bench.report import plot

        lines = [title, how, f"answered: {text.format_throughput(summary)}"]
        _save_plot(plot.draw_latencies(samples, lines), arguments.plot)
    return 0 if summary.answered else 1


def _find_max(
    fleet: Fleet, plan: Plan, arguments: Namespace, load_fields: dict[str, Any], title: str
) -> int:
    """Search for the highest rate, and report every step."""
    precision = (arguments.precision or 5.0) / 100
    objective = Objective(slo_p99_s=arguments.slo_p99, precision=precision)
    with show_progress() as display:
        max_rate = search_max(fleet, plan, objective, display)
    sentence = text.describe_found(max_rate, objective)
    if arguments.json:
        search = {
            "slo_p99_ms": objective.slo_p99_s * 1e3,
            "precision": objective.precision,
            "result": sentence,
            **asdict(max_rate.search),
            "verification": max_rate.verification and asdict(max_rate.verification),
        }
        _print_json(load_fields | {"is_interrupted": fleet.is_interrupted, "find_max": search})
    else:
        sys.stdout.write(f"{title}\n\n{text.format_search(max_rate)}\n{sentence}\n")
    if arguments.plot and max_rate.search.steps:
        import_matplotlib()
        from polyhead.bench.report import plot

        _save_plot(plot.draw_search(max_rate.search, objective, [title, sentence]), arguments.plot)
    return 0 if max_rate.search.rate else 1


def _make_target(arguments: Namespace) -> Target:
    return Target(
        server=arguments.server,
        timeout_s=arguments.timeout,
        transport=arguments.transport,
        connections=arguments.connections,
        security=client_arguments(arguments),
    )


def _make_plan(arguments: Namespace) -> Plan:
    """Make the plan. Raises UsageError for arguments that contradict each other."""
    if arguments.find_max and (arguments.requests or arguments.concurrency):
        raise UsageError(
            "--find-max runs an open loop for --duration seconds a step: leave out "
            "--requests and --concurrency"
        )
    if arguments.find_max != (arguments.slo_p99 is not None):
        raise UsageError("--find-max and --slo-p99 belong together: --find-max --slo-p99 50ms")
    if arguments.precision and not arguments.find_max:
        raise UsageError("--precision belongs to --find-max: add that flag, or leave it out")
    concurrency = arguments.concurrency or 16
    rate = arguments.rate or (FIRST_RATE if arguments.find_max else None)
    if rate is None and (arguments.arrivals or arguments.max_in_flight):
        raise UsageError(
            "--arrivals and --max-in-flight belong to an open loop: add --rate or --find-max, or "
            "leave them out"
        )
    max_in_flight = arguments.max_in_flight or 1024
    in_flight = concurrency if rate is None else max_in_flight
    if in_flight < arguments.processes:
        flag = "--concurrency" if rate is None else "--max-in-flight"
        raise UsageError(
            f"{flag} is {in_flight}, shared among --processes {arguments.processes}: expected at "
            "least one for each process"
        )
    default_s = 5.0 if arguments.find_max else 10.0
    return Plan(
        concurrency=concurrency,
        rate=rate,
        arrivals=arguments.arrivals or "poisson",
        max_in_flight=max_in_flight,
        max_wait_s=arguments.timeout,
        warmup_s=arguments.warmup,
        duration_s=None if arguments.requests else arguments.duration or default_s,
        requests=arguments.requests,
        seed=arguments.seed,
    )


def _need_weights(arguments: Namespace) -> bool | Weights:
    if arguments.heads or arguments.top_k:
        return Weights(heads=arguments.heads or (), top_k=arguments.top_k)
    return bool(arguments.weights)


def _describe_load(target: Target, workload: Workload, plan: Plan) -> dict[str, Any]:
    """Return the JSON report's fields about the load_fields, which do not depend on the outcome."""
    return {
        "polyhead": __version__,
        "target": target.server,
        "transport": target.transport,
        "connections": target.connections,
        "model": workload.model,
        "model_version": workload.version,
        "tokens": text.format_lengths(workload.lengths),
        "batch_size": workload.batch_size,
        "dtype": workload.dtype,
        "need_weights": bool(workload.need_weights),
        "plan": plan.as_json(),
    }


def _make_watch(plan: Plan, display: Display) -> Callable[[Progress], bool]:
    started = time.monotonic()

    def watch(progress: Progress) -> bool:
        if plan.requests is not None:
            share = (progress.answered + progress.failed) / plan.requests
        else:
            assert plan.duration_s is not None
            share = (time.monotonic() - started) / (plan.warmup_s + plan.duration_s)
        text = f"{progress.answered:,} answered" if progress.sent else "warming up"
        display.update(share, f"{text}, {progress.failed:,} failed" if progress.failed else text)
        return True

    return watch


def _print_json(load_fields: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(load_fields, indent=2)}\n")


def _check_plot(path: str) -> None:
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "--plot needs matplotlib, which is not installed: pip install 'polyhead[viz]'"
        )
    check_png("--plot", path)


def _save_plot(figure: Figure, path: str) -> None:
    with writing(path):
        figure.savefig(path, format="png")
