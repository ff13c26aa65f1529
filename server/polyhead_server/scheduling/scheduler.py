"""Decides when and where a job runs: on the event loop at once, or in a worker thread, in turn."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from polyhead_server.errors import DeadlineError, OverloadedError, unwrap
from polyhead_server.scheduling.queue import JobQueue, QueueEntry
from polyhead_server.scheduling.threads import WorkerThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from polyhead_server.scheduling.job import Job

__all__ = ["Scheduler"]

_T = TypeVar("_T")

_RETRY_AFTER_MS = 100


class Scheduler:
    """Runs jobs on one event loop and its worker threads, at most ``max_concurrent_runs`` at once.

    The other jobs wait in a JobQueue, which joins those of one batch key to a batch. With
    ``max_queue_delay_s`` a batch that is not full waits so long for more jobs, counted from the
    arrival of its oldest one; without it no batch waits while a slot is free.

    A job whose caller cancels while it waits never runs; nor does one whose deadline passes. When
    all callers of a batch have cancelled, its run ends at the next node of the graph.

    Invariant: while a slot is free, every job that waits is waiting for batch mates, and a timer is
    set for the oldest.
    """

    def __init__(
        self,
        max_concurrent_runs: int,
        max_queue_size: int,
        max_queue_bytes: int,
        max_queue_delay_s: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_free = max_concurrent_runs
        self._threads = WorkerThreads("polyhead-run")
        self._queue = JobQueue(max_queue_delay_s)
        self._max_queue_size = max_queue_size
        self._max_queue_bytes = max_queue_bytes
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._held_bytes = 0
        self.idle_since: float | None = None
        """When the last request ended, on the monotonic clock; None before, and during requests."""

    def reserve_bytes(self, size: int, *, already_reserved: int = 0) -> _ByteReservation:
        """Account for ``size`` bytes of a request, from its arrival to its response.

        ``already_reserved``: bytes that are accounted for the same request already. Raises
        OverloadedError if the server would hold too many bytes; one request alone always may.
        """
        if self._held_bytes > already_reserved and self._held_bytes + size > self._max_queue_bytes:
            raise OverloadedError(
                f"the server holds {self._held_bytes} bytes of requests and streams already; try "
                "again shortly, send less at once, or raise its --max-queue-bytes",
                _RETRY_AFTER_MS,
            )
        return _ByteReservation(self, size)

    async def run(self, job: Job[_T]) -> _T:
        """Run one job: at once if it is tiny, else in its turn.

        Raises OverloadedError if the queue is full, DeadlineError if the deadline passed before the
        run began, and the exception with which the run ended.
        """
        job.arrived = self._clock()
        if job.runs_inline:
            job.deadline.check()
            return unwrap(*job.make_batch(()).run())
        entry = self._enqueue(job)
        try:
            result: _T = await entry.outcome
        except asyncio.CancelledError:
            self._cancel(entry)
            raise
        finally:
            del entry  # its outcome may be the exception whose traceback leads here: see `unwrap`
        return result

    def run_inline(self, jobs: Sequence[Job[_T]]) -> list[_T | Exception]:
        """Run tiny jobs that came together, at once and here: one batch for each batch key."""
        results: dict[int, _T | Exception] = {}
        for indices in _inline_batches(jobs, self._clock()):
            first, *others = indices
            batch = jobs[first].make_batch([jobs[index] for index in others])
            results.update(zip(indices, batch.run(), strict=True))
        if not self._held_bytes:
            self.idle_since = self._clock()
        return [
            results[index] if index in results else DeadlineError.before_run()
            for index in range(len(jobs))
        ]

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._threads.close()

    def _enqueue(self, job: Job[Any]) -> QueueEntry:
        num_waiting = len(self._queue)
        if num_waiting >= self._max_queue_size and (num_waiting or not self._num_free):
            raise OverloadedError(
                f"{num_waiting} requests wait already, as many as this server lets wait; "
                "try again shortly, or raise its --max-queue-size",
                _RETRY_AFTER_MS,
            )
        entry = QueueEntry(job, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._start_runs()
        return entry

    def _cancel(self, entry: QueueEntry) -> None:
        """Remove a job whose caller has cancelled from the queue, or from its run."""
        self._queue.remove(entry)
        if entry.batch is not None:
            entry.batch.cancel_one()

    def _start_runs(self) -> None:
        """Start runs until no slot is free, or every job that waits is waiting for batch mates."""
        now = self._clock()
        while self._num_free and (entries := self._queue.take_batch(now)):
            self._start(entries)
        if self._num_free and self._queue:
            if self._timer is not None:
                self._timer.cancel()
            delay_s = self._queue.delay_s(now)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._start_runs)

    def _start(self, entries: list[QueueEntry]) -> None:
        first, *others = entries
        batch = first.job.make_batch([entry.job for entry in others])
        for entry in entries:
            entry.batch = batch
        self._num_free -= 1
        # The slot is free when the thread is, even if all callers have cancelled before.
        self._threads.start(batch.run, partial(self._finish, entries))

    def _finish(self, entries: list[QueueEntry], results: Sequence[Any] | BaseException) -> None:
        self._num_free += 1
        if isinstance(results, BaseException):
            results = [results] * len(entries)
        for entry, result in zip(entries, results, strict=True):
            entry.finish(result)
        self._start_runs()


class _ByteReservation:
    """Adds bytes to those that the scheduler's server holds, for the time of a `with` statement."""

    __slots__ = ("_scheduler", "_size")

    def __init__(self, scheduler: Scheduler, size: int) -> None:
        self._scheduler = scheduler
        self._size = size

    def __enter__(self) -> None:
        self._scheduler._held_bytes += self._size  # noqa: SLF001 - part of it
        self._scheduler.idle_since = None

    def __exit__(self, *_: object) -> None:
        self._scheduler._held_bytes -= self._size  # noqa: SLF001 - part of it
        if not self._scheduler._held_bytes:  # noqa: SLF001 - part of it
            self._scheduler.idle_since = self._scheduler._clock()  # noqa: SLF001 - part of it


def _inline_batches(jobs: Sequence[Job[Any]], now: float) -> list[list[int]]:
    """Group jobs whose deadline has not passed into batches, by their indices."""
    batches: list[list[int]] = []
    open_batches: dict[Hashable, tuple[list[int], int]] = {}
    for index, job in enumerate(jobs):
        if job.deadline.has_passed(now):
            continue
        batch, num_tokens = open_batches.get(job.batch_key, ([], 0))
        if job.batch_key is None or not batch or num_tokens + job.num_tokens > job.max_batch_tokens:
            batch, num_tokens = [], 0
            batches.append(batch)
        batch.append(index)
        open_batches[job.batch_key] = batch, num_tokens + job.num_tokens
    return batches
