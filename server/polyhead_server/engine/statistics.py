"""Statistics of one version of a model since it was loaded, as counts and total durations.

- `inference_count` is the sum of the batch sizes of all answered requests. The runs' batch sizes
  have the same sum, up to sizes of 64. Larger runs are counted at the next power of two, because
  callers choose the sizes, and each would be kept.
- `execution_count` is the number of runs, which is the sum of the runs of each batch size.
- `success`, `queue` and the three phases of `compute` count requests. Each request of a batch
  counts with the duration of the whole batch. A block of AttendRows counts as a request.
- `seconds` has the same requests as `success`, by their duration.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from polyhead_server.histogram import SECONDS, Histogram

__all__ = [
    "RequestTiming",
    "Duration",
    "ModelStatistics",
    "RunTimestamps",
    "PhaseTotals",
    "ModelTotals",
]


_MAX_EXACT_SIZE = 64
"""Largest batch size that is counted by itself."""


@dataclass(frozen=True, slots=True)
class Duration:
    """A number of events, and their total duration."""

    count: int
    seconds: float


class RunTimestamps(NamedTuple):
    """The times of the phases of a run, or of several successive runs, in seconds."""

    started_s: float
    read_s: float
    """The end of reading and checking the inputs."""
    inferred_s: float
    """The end of the graph's run."""
    answered_s: float
    """The end of writing the responses."""


class RequestTiming(NamedTuple):
    """Queue time of requests that a run answered."""

    batch_size: int
    """Batch size of each request."""
    queue_s: float
    """Time that each request waited for the run, in seconds."""
    num_requests: int = 1
    num_tokens: int = 0
    """Tokens of each request: queries or keys of all its sequences, the larger number."""


@dataclass(slots=True)
class PhaseTotals:
    """A number of computations, and the total duration of each phase in seconds."""

    count: int = 0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Total duration of all phases."""
        return self.input_s + self.infer_s + self.output_s

    def add(self, count: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Add ``count`` computations, and the total duration of each of their phases."""
        self.count += count
        self.input_s += input_s
        self.infer_s += infer_s
        self.output_s += output_s


@dataclass(slots=True)
class ModelTotals:
    """Statistics of a version of a model."""

    last_inference_s: float = 0.0
    """The time of the last run, in seconds since 1970; 0 before the first run."""
    inference_count: int = 0
    compute: PhaseTotals = field(default_factory=PhaseTotals)
    """Phases of computing, counted by answered request."""
    batches: defaultdict[int, PhaseTotals] = field(default_factory=lambda: defaultdict(PhaseTotals))
    """Phases of computing, counted by run, for each batch size."""
    queue_s: float = 0.0
    """Total time that answered requests waited for their runs, in seconds."""
    fail: Duration = Duration(0, 0.0)
    tokens: int = 0
    """Sum of the tokens of all answered requests."""
    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """Time of answered requests from their arrival in the queue to their response."""

    @property
    def execution_count(self) -> int:
        """Number of runs."""
        return sum(tally.count for tally in self.batches.values())

    @property
    def queue(self) -> Duration:
        """Time that answered requests waited for their runs."""
        return Duration(self.compute.count, self.queue_s)

    @property
    def success(self) -> Duration:
        """Time of answered requests from their arrival in the queue to their response."""
        return Duration(self.compute.count, self.queue_s + self.compute.seconds)


def _size_class(batch_size: int) -> int:
    """Return the batch size under which a run is counted. There are about 90 of them."""
    return batch_size if batch_size <= _MAX_EXACT_SIZE else 1 << (batch_size - 1).bit_length()


class ModelStatistics:
    """Statistics of one version of a model, which several threads may add to."""

    def __init__(self) -> None:
        self._totals = ModelTotals()
        self._lock = threading.Lock()

    def add(
        self,
        batch_size: int,
        times: RunTimestamps,
        timings: list[RequestTiming],
        num_runs: int = 1,
    ) -> None:
        """Add runs of one batch size that have just ended, and the requests that they answered."""
        started_s, read_s, inferred_s, answered_s = times
        input_s, infer_s, output_s = (
            read_s - started_s,
            inferred_s - read_s,
            answered_s - inferred_s,
        )
        with self._lock:
            totals = self._totals
            totals.last_inference_s = time.time()
            totals.batches[_size_class(batch_size)].add(num_runs, input_s, infer_s, output_s)
            num_answered = 0
            run_s = (answered_s - started_s) / num_runs
            for request_batch_size, queue_s, num_requests, num_tokens in timings:
                totals.inference_count += request_batch_size * num_requests
                totals.queue_s += queue_s * num_requests
                totals.tokens += num_tokens * num_requests
                totals.seconds.add(queue_s + run_s, num_requests)
                num_answered += num_requests
            share = num_answered / num_runs  # each request counts with the duration of its run
            totals.compute.add(num_answered, input_s * share, infer_s * share, output_s * share)

    def add_failure(self, seconds: float) -> None:
        """Add a request that failed after so many seconds."""
        with self._lock:
            fail = self._totals.fail
            self._totals.fail = Duration(fail.count + 1, fail.seconds + seconds)

    def totals(self) -> ModelTotals:
        """Return a copy of the statistics."""
        with self._lock:
            return deepcopy(self._totals)
