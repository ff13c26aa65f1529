"""Reads the metrics page of a server, and compares two readings."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError
from polyhead.errors import ServerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Interval", "MetricsPage", "read_page"]

_MAX_PAGE_BYTES = 64 << 20
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_IS_OURS = "polyhead_queue_requests"

Model = tuple[str, str]
"""Name and version."""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The samples of one reading."""

    read_at: float
    """When it was read, in seconds of the monotonic clock."""
    samples: dict[str, list[tuple[dict[str, str], float]]]
    """Labels and value of each sample, by the metric's name."""

    @classmethod
    def parse(cls, text: str, read_at: float) -> MetricsPage:
        """Read a page in Prometheus' text format."""
        samples = defaultdict(list)
        for line in text.splitlines():
            if match := _SAMPLE.fullmatch(line):
                name, labels, value = match.groups()
                samples[name].append((dict(_LABEL.findall(labels or "")), float(value)))
        return cls(read_at, dict(samples))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with these labels, over all workers."""
        return sum(
            value
            for sample_labels, value in self.samples.get(name, ())
            if labels.items() <= sample_labels.items()
        )

    def largest(self, name: str) -> float:
        """Return the largest of a metric's samples; 0 if there are none."""
        return max((value for _, value in self.samples.get(name, ())), default=0.0)

    def models(self) -> list[Model]:
        """Return the models that are served."""
        samples = self.samples.get("polyhead_model", ())
        return sorted({(labels["model"], labels["version"]) for labels, _ in samples})


def read_page(host: str, port: int, timeout_s: float) -> MetricsPage:
    """Read a server's metrics page. Raises ServerUnavailableError, and UsageError for another page.

    No proxy is used.
    """
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read(_MAX_PAGE_BYTES).decode(errors="replace")
    except (OSError, HTTPException) as error:
        raise ServerUnavailableError(
            f"no metrics at {host}:{port}: start the server with --metrics-port {port}, or name "
            "the port that it has with --metrics"
        ) from error
    finally:
        connection.close()
    if _IS_OURS not in text:
        raise UsageError(f"--metrics: {host}:{port} has no metrics of polyhead; name another port")
    return MetricsPage.parse(text, time.monotonic())


@dataclass(frozen=True, slots=True)
class Interval:
    """The difference between two readings of a server's metrics page."""

    before: MetricsPage
    after: MetricsPage

    @property
    def seconds(self) -> float:
        """Seconds between the readings."""
        return self.after.read_at - self.before.read_at

    def rate(self, name: str, **labels: str) -> float:
        """Return a counter's growth per second. After a restart it is counted from 0."""
        growth = self.after.total(name, **labels) - self.before.total(name, **labels)
        return (growth if growth >= 0 else self.after.total(name, **labels)) / self.seconds

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of a histogram's values in the interval; None if there were none."""
        count = self.rate(f"{name}_count", **labels)
        return self.rate(f"{name}_sum", **labels) / count if count else None

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Return an estimate of a quantile of a histogram's values; None if there were none.

        Values are taken as evenly spread between a bucket's bounds, as Prometheus does. Those above
        the last bound count as that bound.
        """
        buckets = list(self._buckets(name, labels))
        if not buckets or not buckets[-1][1]:
            return None
        bounds, counts = zip(*buckets, strict=True)
        rank = share * counts[-1]
        index = min(bisect_left(counts, rank), len(bounds) - 2)
        lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
        inside = counts[index] - below
        part = min(1.0, (rank - below) / inside) if inside else 1.0
        return float(lower + (bounds[index] - lower) * part)

    def _buckets(self, name: str, labels: dict[str, str]) -> Iterator[tuple[float, float]]:
        """Yield each bucket's bound, and the number of values up to this bound per second."""
        samples = self.after.samples.get(f"{name}_bucket", ())
        for bound in sorted({sample_labels["le"] for sample_labels, _ in samples}, key=float):
            yield float(bound), self.rate(f"{name}_bucket", le=bound, **labels)
