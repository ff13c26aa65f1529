"""What a row of the table of limits found."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.harness.cases import Load, middle, spread
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Effort", "Finding", "Limit", "figures_table", "limits_table"]


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float
    """Of each case, in each round."""


@dataclass(frozen=True)
class Limit:
    """A bound on a ratio."""

    bound: float
    is_least: bool = False
    """Whether the ratio shall be at least that, and not at most."""

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.bound:.2f}"

    def verdict(self, ratio: float) -> str:
        """Say whether a ratio keeps it."""
        is_reached = ratio >= self.bound if self.is_least else ratio <= self.bound
        return "reached" if is_reached else "not reached"


@dataclass(frozen=True)
class Finding:
    """A ratio, round by round, and what it is made of."""

    work: str
    against: str
    limit: Limit | None
    """None: the ratio is told, and nothing is asked of it."""
    ratios: Sequence[float]
    loads: Mapping[str, Sequence[Load]] = field(default_factory=dict)
    """By case."""


def limits_table(findings: Sequence[Finding]) -> str:
    """Tabulate the ratios."""
    header = ["work", "against", "verdict", "limit", "ratio", "spread"]
    rows = []
    for finding in findings:
        ratio = median(finding.ratios)
        rows.append(
            [
                finding.work,
                finding.against,
                finding.limit.verdict(ratio) if finding.limit else "-",
                str(finding.limit or "-"),
                f"{ratio:.2f}",
                f"{spread(finding.ratios):.0%}",
            ]
        )
    return table(header, rows, texts=3)


def figures_table(findings: Sequence[Finding]) -> str:
    """Tabulate what the ratios are made of."""
    header = ["work", "case", "CPU ms", "spread", "generator's CPU ms"]
    header += ["wall ms", "requests/s", "p50 ms"]
    rows = [
        [
            finding.work,
            case,
            f"{middle(loads, 'cpu_ms'):.3g}",
            f"{spread([load.cpu_ms for load in loads]):.0%}",
            _or_dash(middle(loads, "client_cpu_ms")),
            f"{middle(loads, 'wall_ms'):.3g}",
            f"{middle(loads, 'rate'):.0f}",
            _or_dash(middle(loads, "p50_ms")),
        ]
        for finding in findings
        for case, loads in finding.loads.items()
    ]
    return table(header, rows, texts=2)


def _or_dash(number: float) -> str:
    return "-" if isnan(number) or not number else f"{number:.3g}"
