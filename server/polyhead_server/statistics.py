"""What a version of a model has done since it was loaded: counts and durations that add up.

- `inference_count` is the sum of the batch sizes of all answered requests, and that of all runs.
- `execution_count` is the number of runs, and the sum of the runs of each batch size.
- `success`, `queue` and the three parts of computing are of requests; each of a batch has what the
  batch took. A block of AttendRows counts as a request.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Duration", "ModelStatistics", "RunDurations", "Tally"]


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Add as many times this duration."""
        self.count += count
        self.seconds += seconds * count


class RunDurations(NamedTuple):
    """How long the parts of a run took, in seconds."""

    input_s: float
    """Reading and checking the numbers."""
    infer_s: float
    """The graph."""
    output_s: float
    """Writing the responses."""


@dataclass(slots=True)
class Tally:
    """Durations of the parts of computing."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)

    def add(self, durations: RunDurations, count: int = 1) -> None:
        """Add as many times these durations."""
        self.input.add(durations.input_s, count)
        self.infer.add(durations.infer_s, count)
        self.output.add(durations.output_s, count)


class ModelStatistics:
    """Counts of one version of a model. Runs of several threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.last_inference_s = 0.0
        """When it last ran, in seconds since 1970; 0: never."""
        self.inference_count = 0
        self.success = Duration()
        """From a request's arrival in the queue to its response."""
        self.fail = Duration()
        self.queue = Duration()
        self.compute = Tally()
        self.batches: dict[int, Tally] = {}
        """Runs by batch size."""

    @property
    def execution_count(self) -> int:
        """Number of runs."""
        return sum(tally.infer.count for tally in self.batches.values())

    def add_runs(self, batch_size: int, durations: RunDurations, count: int = 1) -> None:
        """Add ``count`` runs of a batch size that took so long each."""
        with self._lock:
            self.last_inference_s = time.time()
            self.batches.setdefault(batch_size, Tally()).add(durations, count)

    def add_answers(
        self,
        batch_size: int,
        queue_s: float,
        durations: RunDurations,
        count: int = 1,
    ) -> None:
        """Add ``count`` requests of a batch size that were answered, and what it took."""
        with self._lock:
            self.inference_count += batch_size * count
            self.queue.add(queue_s, count)
            self.compute.add(durations, count)
            self.success.add(queue_s + sum(durations), count)

    def add_failure(self, seconds: float, count: int = 1) -> None:
        """Add ``count`` requests that were not answered after so long."""
        with self._lock:
            self.fail.add(seconds, count)
