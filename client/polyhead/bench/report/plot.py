"""Plots of a run and of a search, with matplotlib but without pyplot's global state."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from polyhead.bench.report.summary import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from polyhead.bench.samples import Samples
    from polyhead.bench.search.bisection import SearchResult, Step
    from polyhead.bench.search.max_rate import Objective

__all__ = ["draw_latencies", "draw_search"]

_DARK, _MIDDLE, _LIGHT, _RED = "#233e6a", "#2ca08c", "#b9c4d4", "#c23b3b"
_GREY = "0.35"
_MAX_DOTS = 4000
_BINS = 50
_LINE_LENGTH = 84
"""Letters of the title that fit above one panel."""
_LABELLED = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}


def draw_latencies(samples: Samples, lines: Sequence[str]) -> Figure:
    """Draw a run: latency by percentile with a stretched tail, and latency over time.

    ``lines``: what is written above, such as the load and the throughput.
    """
    figure, (left, right) = _make_figure(lines, columns=2)
    latency_ms = samples.answers[:, 1] * 1e3
    if len(latency_ms):
        _draw_percentiles(left, np.sort(latency_ms))
        _draw_over_time(right, samples.answers[:, 0], latency_ms)
    for due, latency in samples.failures[:_MAX_DOTS, :2]:
        right.plot(due, latency * 1e3, "x", color=_RED, markersize=4)
    left.set_xlabel("percentile of answers", color=_GREY)
    right.set_xlabel("due time of the request, in seconds", color=_GREY)
    left.set_ylabel("latency in ms", color=_GREY)
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    return figure


def draw_search(search: SearchResult, objective: Objective, lines: Sequence[str]) -> Figure:
    """Draw a search: p99 by rate, one mark for each step, the objective, and the rate found.

    ``lines``: what is written above, such as the result.
    """
    figure, (axes,) = _make_figure(lines, columns=1)
    slo_ms = objective.slo_p99_s * 1e3
    axes.axhline(slo_ms, color=_GREY, linestyle="--", linewidth=1, label=f"objective {slo_ms:g} ms")
    if search.rate:
        label = f"found: {search.rate:,.4g} requests/s"
        axes.axvline(search.rate, color=_MIDDLE, linewidth=5, alpha=0.3, label=label)
    for (marker, colour, label), steps in _by_outcome(search.steps).items():
        # A step without answers has no p99, and is drawn at the objective.
        points = [(step.rate, slo_ms if step.p99_ms is None else step.p99_ms) for step in steps]
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=label)
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log")
        for which in (axis.set_major_formatter, axis.set_minor_formatter):
            which(FuncFormatter(_format_tick))
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_tick_params(which="both", labelsize=8)
    axes.set_xlabel("requests due a second", color=_GREY)
    axes.set_ylabel("p99 latency in ms", color=_GREY)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _by_outcome(steps: Iterable[Step]) -> dict[tuple[str, str, str], list[Step]]:
    """Group steps by their marker, colour and label: within, too slow, or with failures and why."""
    groups: dict[tuple[str, str, str], list[Step]] = {}
    for step in steps:
        if step.is_within:
            key = ("o", _MIDDLE, "within")
        elif step.failed or step.p99_ms is None:
            why = step.reason.partition(" failed, ")[2]
            key = ("x", _RED, f"beyond: requests failed, {why}" if why else "beyond: no answers")
        else:
            key = ("o", _RED, "beyond: too slow")
        groups.setdefault(key, []).append(step)
    return groups


def _format_tick(value: float, _: object) -> str:
    return f"{value:,g}"


def _make_figure(lines: Sequence[str], *, columns: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.5 * columns + 0.5, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    title = "\n".join(part for line in lines for part in wrap(line, _LINE_LENGTH * columns))
    figure.suptitle(title, fontsize=9, parse_math=False)
    return figure, list(panels)


def _draw_percentiles(panel: Axes, ascending: NDArray[np.float64]) -> None:
    """Draw sorted latencies over a percentile axis on which each further nine has equal width."""
    count = len(ascending)
    share_above = 1 - np.arange(count) / count  # 1 for the fastest, 1 / count for the slowest
    ranks = np.unique(np.geomspace(1, count, min(count, 2000)).astype(np.intp))
    indices = count - ranks[::-1]  # thinned at the fast end, complete in the tail
    panel.step(1 / share_above[indices], ascending[indices], where="post", color=_DARK)
    panel.set_xscale("log")
    marks = {name: 1000 / (1000 - per_mille) for name, per_mille in _LABELLED.items()}
    ticks = {x: name for name, x in marks.items() if x <= count}
    panel.set_xticks(list(ticks), list(ticks.values()))
    panel.xaxis.minorticks_off()
    for x, name in ticks.items():
        value = percentile(ascending, _LABELLED[name])
        panel.plot(x, value, "o", color=_MIDDLE, markersize=4)
        panel.annotate(
            f"{name} {value:.3g}",
            (x, value),
            textcoords="offset points",
            xytext=(-4, 6),
            ha="right",
            fontsize=8,
        )


def _draw_over_time(
    panel: Axes, due_times: NDArray[np.float64], latency_ms: NDArray[np.float64]
) -> None:
    """Draw a sample of the answers as dots, and p50 and p99 of each time slice as lines."""
    thinned = np.linspace(0, len(due_times) - 1, min(len(due_times), _MAX_DOTS)).astype(np.intp)
    panel.plot(due_times[thinned], latency_ms[thinned], ".", color=_LIGHT, markersize=2)
    edges = np.linspace(0, max(float(due_times.max()), 1e-9), _BINS + 1)
    slices = np.clip(np.digitize(due_times, edges) - 1, 0, _BINS - 1)
    present = np.unique(slices)
    middles = ((edges[:-1] + edges[1:]) / 2)[present]
    for name, per_mille, colour in (("p50", 500, _MIDDLE), ("p99", 990, _DARK)):
        values = [
            percentile(np.sort(latency_ms[slices == number]), per_mille) for number in present
        ]
        panel.plot(middles, values, color=colour, linewidth=1.2, label=name)
    panel.legend(frameon=False, fontsize=8, title="in each fiftieth of the run", title_fontsize=7)
