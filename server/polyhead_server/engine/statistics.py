"""What a version of a model has done since it was loaded: counts and durations that add up.

- `inference_count` is the sum of the batch sizes of all answered requests, and that of all runs.
- `execution_count` is the number of runs, and the sum of the runs of each batch size.
- `success`, `queue` and the three parts of computing are of requests; each of a batch has what the
  batch took. A block of AttendRows counts as a request.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "RequestTiming",
    "Duration",
    "ModelStatistics",
    "RunTimestamps",
    "PhaseTotals",
    "ModelTotals",
]


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long it took altogether."""

    count: int
    seconds: float


class RunTimestamps(NamedTuple):
    """When the parts of a run ended, or of several one after the other; in seconds."""

    started_s: float
    read_s: float
    """Its numbers were read and checked."""
    inferred_s: float
    """The graph had been run."""
    answered_s: float
    """The responses were written."""

    def parts(self, num_runs: int) -> tuple[float, float, float]:
        """Give how long input, inference and output of one of so many runs took."""
        started_s, read_s, inferred_s, answered_s = self
        return (
            (read_s - started_s) / num_runs,
            (inferred_s - read_s) / num_runs,
            (answered_s - inferred_s) / num_runs,
        )


class RequestTiming(NamedTuple):
    """Requests that a run answered."""

    batch_size: int
    """Of each."""
    queue_s: float
    """How long each waited for the run, in seconds."""
    num_requests: int = 1


@dataclass(slots=True)
class PhaseTotals:
    """How often something was computed, and how long its parts took altogether, in seconds."""

    count: int = 0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took altogether."""
        return self.input_s + self.infer_s + self.output_s

    def add(self, count: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Add so many that took so long each."""
        self.count += count
        self.input_s += input_s * count
        self.infer_s += infer_s * count
        self.output_s += output_s * count


@dataclass(slots=True)
class ModelTotals:
    """All that a version of a model has done."""

    last_inference_s: float = 0.0
    """When it last ran, in seconds since 1970; 0: never."""
    inference_count: int = 0
    compute: PhaseTotals = field(default_factory=PhaseTotals)
    """Requests that were answered."""
    batches: defaultdict[int, PhaseTotals] = field(default_factory=lambda: defaultdict(PhaseTotals))
    """Runs by batch size."""
    queue_s: float = 0.0
    """What their waits for their runs add up to, in seconds."""
    fail: Duration = Duration(0, 0.0)

    @property
    def execution_count(self) -> int:
        """Number of runs."""
        return sum(tally.count for tally in self.batches.values())

    @property
    def queue(self) -> Duration:
        """How long the requests that were answered waited for their runs."""
        return Duration(self.compute.count, self.queue_s)

    @property
    def success(self) -> Duration:
        """From a request's arrival in the queue to its response."""
        return Duration(self.compute.count, self.queue_s + self.compute.seconds)

    def add(
        self, batch_size: int, times: RunTimestamps, answered: list[RequestTiming], num_runs: int
    ) -> None:
        """Add runs that have just ended, and the requests that they answered."""
        self.last_inference_s = time.time()
        parts = times.parts(num_runs)
        self.batches[batch_size].add(num_runs, *parts)
        num_answered = 0
        for request_batch_size, queue_s, num_requests in answered:
            self.inference_count += request_batch_size * num_requests
            self.queue_s += queue_s * num_requests
            num_answered += num_requests
        self.compute.add(num_answered, *parts)


class ModelStatistics:
    """Counts of one version of a model. Several threads may add runs to it."""

    def __init__(self) -> None:
        self._totals = ModelTotals()
        self._lock = threading.Lock()

    def add(
        self,
        batch_size: int,
        times: RunTimestamps,
        answered: list[RequestTiming],
        num_runs: int = 1,
    ) -> None:
        """Add runs of one batch size that have just ended, and the requests that they answered."""
        with self._lock:
            self._totals.add(batch_size, times, answered, num_runs)

    def add_failure(self, seconds: float) -> None:
        """Add a request that was not answered, after so long."""
        with self._lock:
            fail = self._totals.fail
            self._totals.fail = Duration(fail.count + 1, fail.seconds + seconds)

    def totals(self) -> ModelTotals:
        """Copy what was counted until now."""
        with self._lock:
            return deepcopy(self._totals)
