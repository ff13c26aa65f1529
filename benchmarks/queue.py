"""Measures the cost of choosing the next batch, for several numbers of waiting jobs.

`python -m benchmarks.queue`
"""

from __future__ import annotations

import time
from typing import Any

from polyhead_server.deadline import Deadline
from polyhead_server.scheduling.job import Job, RunnableBatch
from polyhead_server.scheduling.queue import JobQueue, QueueEntry

_NUM_KEYS, _BATCH_SIZE, _NUM_STARTS = 16, 8, 50


class _Job(Job[Any]):
    num_tokens, max_batch_tokens = 1, _BATCH_SIZE

    def make_batch(self, others: Any) -> RunnableBatch[Any]:  # noqa: ANN401 - never called
        raise NotImplementedError


def _microseconds_per_start(num_waiting: int) -> float:
    """Start batches while ``num_waiting`` jobs wait. Each start is followed by as many arrivals."""
    queue: JobQueue = JobQueue()
    num_made = 0

    def arrive() -> None:
        nonlocal num_made
        job = _Job(Deadline(None), runs_inline=False)
        job.batch_key = num_made % _NUM_KEYS
        num_made += 1
        queue.append(QueueEntry(job, None))  # type: ignore[arg-type] - no caller awaits it

    for _ in range(num_waiting):
        arrive()
    taken_s = 0.0
    for _ in range(_NUM_STARTS):
        started = time.perf_counter()
        batch = queue.take_batch(started)
        taken_s += time.perf_counter() - started
        for _ in batch:
            arrive()
    return taken_s / _NUM_STARTS * 1e6


def _main() -> None:
    for num_waiting in (100, 10_000, 100_000):
        best = min(_microseconds_per_start(num_waiting) for _ in range(5))
        print(f"{num_waiting:>7} waiting  {best:8.1f} us per start of {_BATCH_SIZE} jobs")  # noqa: T201 - its output


if __name__ == "__main__":
    _main()
