"""Findings: the rows of the table of limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan
from statistics import median
from textwrap import fill
from typing import TYPE_CHECKING

from benchmarks.harness.cases import Measurement, median_of, spread
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Effort", "Finding", "Limit", "figures_table", "limits_table"]


@dataclass(frozen=True)
class Effort:
    """The duration of a measurement."""

    rounds: int
    seconds: float
    """Duration of each case in each round."""


@dataclass(frozen=True)
class Limit:
    """A bound on a ratio."""

    bound: float
    is_minimum: bool = False
    """Whether the bound is the smallest ratio allowed, and not the largest."""

    def __str__(self) -> str:
        return f"{'>=' if self.is_minimum else '<='} {self.bound:.2f}"

    def verdict(self, ratio: float) -> str:
        """Return whether a ratio reaches the limit."""
        is_reached = ratio >= self.bound if self.is_minimum else ratio <= self.bound
        return "reached" if is_reached else "not reached"


@dataclass(frozen=True)
class Finding:
    """A ratio, round by round, and the measurements behind it."""

    workload: str
    against: str
    """What the service is compared with."""
    limit: Limit | None
    """None: the ratio is for information."""
    ratios: Sequence[float]
    measurements: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    """Measurements by case."""
    note: str = ""
    """Why the limit is this one, or why there is no limit."""


def limits_table(findings: Sequence[Finding]) -> str:
    """Tabulate the ratios, with the notes below."""
    header = ["workload", "against", "verdict", "limit", "ratio", "spread"]
    rows = []
    for finding in findings:
        ratio = median(finding.ratios)
        rows.append(
            [
                finding.workload,
                finding.against,
                finding.limit.verdict(ratio) if finding.limit else "-",
                str(finding.limit or "-"),
                f"{ratio:.2f}",
                f"{spread(finding.ratios):.0%}",
            ]
        )
    notes = [
        fill(f"- {f.workload}, against {f.against}: {f.note}.", 100, subsequent_indent="  ")
        for f in findings
        if f.note
    ]
    return "\n".join([table(header, rows, texts=3), *(["", *notes] if notes else [])])


def figures_table(findings: Sequence[Finding]) -> str:
    """Tabulate the measurements behind the ratios."""
    header = ["workload", "case", "CPU ms", "spread", "generator's CPU ms"]
    header += ["wall ms", "requests/s", "p50 ms"]
    rows = [
        [
            finding.workload,
            case,
            f"{median_of(measurements, 'cpu_ms'):.3g}",
            f"{spread([measured.cpu_ms for measured in measurements]):.0%}",
            _or_dash(median_of(measurements, "client_cpu_ms")),
            f"{median_of(measurements, 'wall_ms'):.3g}",
            f"{median_of(measurements, 'rate'):.0f}",
            _or_dash(median_of(measurements, "p50_ms")),
        ]
        for finding in findings
        for case, measurements in finding.measurements.items()
    ]
    return table(header, rows, texts=2)


def _or_dash(number: float) -> str:
    return "-" if isnan(number) or not number else f"{number:.3g}"
