"""What a version of a model has done since it was loaded: counts and durations that add up.

- `inference_count` is the sum of the batch sizes of all answered requests, and that of all runs.
- `execution_count` is the number of runs, and the sum of the runs of each batch size.
- `success`, `queue` and the three parts of computing are of requests; each of a batch has what the
  batch took. A block of AttendRows counts as a request.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Answered", "Duration", "ModelStatistics", "RunDurations", "Tally"]


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something was done, and how long it took altogether."""

    count: int
    seconds: float


class RunDurations(NamedTuple):
    """How long the parts of a run took, in seconds."""

    input_s: float
    """Reading and checking the numbers."""
    infer_s: float
    """The graph."""
    output_s: float
    """Writing the responses."""


class Answered(NamedTuple):
    """Requests that a run answered."""

    batch_size: int
    """Of each."""
    queue_s: float
    """How long each waited for the run, in seconds."""
    num_requests: int = 1


@dataclass(slots=True)
class Tally:
    """How often something was computed, and how long its parts took altogether, in seconds."""

    count: int = 0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took altogether."""
        return self.input_s + self.infer_s + self.output_s

    def add(self, durations: RunDurations, count: int) -> None:
        """Add as many times these durations."""
        self.count += count
        self.input_s += durations.input_s * count
        self.infer_s += durations.infer_s * count
        self.output_s += durations.output_s * count


class ModelStatistics:
    """Counts of one version of a model. Runs of several threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last_inference_s = 0.0
        """When it last ran, in seconds since 1970; 0: never."""
        self.inference_count = 0
        self.compute = Tally()
        """Requests that were answered."""
        self.batches: dict[int, Tally] = {}
        """Runs by batch size."""
        self.fail = Duration(0, 0.0)
        self._queue_s = 0.0

    @property
    def execution_count(self) -> int:
        """Number of runs."""
        return sum(tally.count for tally in self.batches.values())

    @property
    def queue(self) -> Duration:
        """How long the requests that were answered waited for their runs."""
        return Duration(self.compute.count, self._queue_s)

    @property
    def success(self) -> Duration:
        """From a request's arrival in the queue to its response."""
        return Duration(self.compute.count, self._queue_s + self.compute.seconds)

    def add(
        self,
        batch_size: int,
        durations: RunDurations,
        answered: Iterable[Answered],
        num_runs: int = 1,
    ) -> None:
        """Add runs of a batch size that took so long each, and the requests that they answered."""
        with self._lock:  # once for all: each lock and call here is a hundredth of a small request
            self.last_inference_s = time.time()
            runs = self.batches.get(batch_size)
            if runs is None:
                runs = self.batches[batch_size] = Tally()
            runs.add(durations, num_runs)
            num_answered = 0
            for of_each, queue_s, num_requests in answered:
                self.inference_count += of_each * num_requests
                self._queue_s += queue_s * num_requests
                num_answered += num_requests
            self.compute.add(durations, num_answered)

    def add_failure(self, seconds: float) -> None:
        """Add a request that was not answered, after so long."""
        with self._lock:
            self.fail = Duration(self.fail.count + 1, self.fail.seconds + seconds)
