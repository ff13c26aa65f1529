"""Decides when and where a job runs: at once, or in its turn on a worker thread, with company."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from polyhead_server.errors import DeadlineError, OverloadedError
from polyhead_server.scheduling.threads import WorkerThreads

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from types import TracebackType

    from polyhead_server.scheduling.job import Job, RunnableBatch

__all__ = ["Scheduler"]

_T = TypeVar("_T")

_RETRY_AFTER_MS = 100


class Scheduler:
    """Runs jobs, at most ``max_concurrent_runs`` at a time, the rest waiting in order of arrival.

    When a run can begin, whatever waits with the batch key of the oldest job joins it, as far as
    the tokens of a batch allow. With ``max_queue_delay_s`` a batch that is not full waits for
    more, counted from the arrival of its oldest job; without it no batch waits.

    Belongs to one event loop. A job that is cancelled, or whose deadline passes, while it waits
    never runs; one that runs is ended at the next node of its graph, if it runs alone.
    """

    def __init__(
        self,
        max_concurrent_runs: int,
        max_queue_size: int,
        max_queue_bytes: int,
        max_queue_delay_s: float = 0.0,
    ) -> None:
        self._num_free = max_concurrent_runs
        self._threads = WorkerThreads("polyhead-run")
        self._queue: deque[QueueEntry] = deque()
        self._max_queue_size = max_queue_size
        self._max_queue_bytes = max_queue_bytes
        self._max_queue_delay_s = max_queue_delay_s
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
        run began, and whatever the run ended with.
        """
        job.arrived = time.monotonic()
        if job.runs_inline:
            job.deadline.check()
            (outcome,) = job.make_batch(()).run()
            if isinstance(outcome, Exception):
                try:
                    raise outcome
                finally:
                    del outcome  # its traceback leads here: a cycle, which would keep the request
            return outcome
        waiting = self._enqueue(job)
        try:
            result: _T = await waiting.ended
        except asyncio.CancelledError:
            self._leave(waiting)
            raise
        finally:
            del waiting  # it knows what the request ended with, as above
        return result

    def run_inline(self, jobs: Sequence[Job[_T]]) -> list[_T | Exception]:
        """Run tiny jobs that came together, at once and here: one batch for each batch key."""
        results: dict[int, _T | Exception] = {}
        for batch in _batches(jobs, time.monotonic()):
            first, *others = batch
            work = jobs[first].make_batch([jobs[index] for index in others])
            results.update(zip(batch, work.run(), strict=True))
        if not self._held_bytes:
            self.idle_since = time.monotonic()
        return [
            results[index] if index in results else DeadlineError.before_run()
            for index in range(len(jobs))
        ]

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._threads.close()

    def _enqueue(self, job: Job[Any]) -> QueueEntry:
        if len(self._queue) >= self._max_queue_size and (self._queue or not self._num_free):
            raise OverloadedError(
                f"{len(self._queue)} requests wait already, as many as this server lets wait; "
                "try again shortly, or raise its --max-queue-size",
                _RETRY_AFTER_MS,
            )
        waiting = QueueEntry(job, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._start_runs()
        return waiting

    def _leave(self, waiting: QueueEntry) -> None:
        """Let go of a job whose caller is gone."""
        if waiting.work is not None:
            waiting.work.cancel_one()
        elif waiting in self._queue:
            self._queue.remove(waiting)

    def _start_runs(self) -> None:
        while self._num_free and (batch := self._next_batch()):
            for waiting in batch:
                self._queue.remove(waiting)
            self._start(batch)

    def _next_batch(self) -> list[QueueEntry]:
        """Choose what runs next: the oldest job that need not wait, and its company."""
        now = time.monotonic()
        self._drop_late(now)
        waiting_for_company: set[Hashable] = set()
        for oldest in self._queue:
            batch_key = oldest.job.batch_key
            if batch_key is None:
                return [oldest]
            if batch_key in waiting_for_company:
                continue
            batch, is_full = self._company(oldest)
            wait_s = oldest.job.arrived + self._max_queue_delay_s - now
            if is_full or wait_s <= 0:
                return batch
            if not waiting_for_company:
                self._look_again_in(wait_s)
            waiting_for_company.add(batch_key)
        return []

    def _look_again_in(self, wait_s: float) -> None:
        """Start what can be started when the wait of the oldest job is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._start_runs)

    def _company(self, oldest: QueueEntry) -> tuple[list[QueueEntry], bool]:
        """Find the jobs that share the oldest one's run, itself included; whether it is full."""
        batch: list[QueueEntry] = []
        num_tokens = 0
        for waiting in self._queue:
            job = waiting.job
            if job.batch_key != oldest.job.batch_key:
                continue
            if batch and num_tokens + job.num_tokens > oldest.job.max_batch_tokens:
                return batch, True
            batch.append(waiting)
            num_tokens += job.num_tokens
        return batch, num_tokens >= oldest.job.max_batch_tokens

    def _drop_late(self, now: float) -> None:
        """Refuse whatever waits longer than its caller does."""
        late = [waiting for waiting in self._queue if waiting.job.deadline.has_passed(now)]
        for waiting in late:
            self._queue.remove(waiting)
            waiting.end(DeadlineError.before_run())

    def _start(self, batch: list[QueueEntry]) -> None:
        first, *others = batch
        work = first.job.make_batch([waiting.job for waiting in others])
        for waiting in batch:
            waiting.work = work
        self._num_free -= 1
        # The slot is free when the thread is, whatever has become of the callers by then.
        self._threads.start(work.run, partial(self._finish, batch))

    def _finish(self, batch: list[QueueEntry], results: Sequence[Any] | BaseException) -> None:
        self._num_free += 1
        if isinstance(results, BaseException):
            results = [results] * len(batch)
        for waiting, result in zip(batch, results, strict=True):
            waiting.end(result)
        self._start_runs()


class QueueEntry:
    """A job in the queue, or running, and who waits for it."""

    __slots__ = ("ended", "job", "work")

    def __init__(self, job: Job[Any], ended: asyncio.Future[Any]) -> None:
        self.job = job
        self.ended = ended
        self.work: RunnableBatch[Any] | None = None
        """What runs it, once it runs."""

    def end(self, result: object) -> None:
        """Tell its caller, if there is one still, how it ended."""
        if self.ended.done():
            return
        if isinstance(result, BaseException):
            self.ended.set_exception(result)
        else:
            self.ended.set_result(result)


class _ByteReservation:
    """Bytes that are accounted for until this is left."""

    __slots__ = ("_scheduler", "_size")

    def __init__(self, scheduler: Scheduler, size: int) -> None:
        self._scheduler = scheduler
        self._size = size

    def __enter__(self) -> None:
        self._scheduler._held_bytes += self._size  # noqa: SLF001 - part of it
        self._scheduler.idle_since = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._scheduler._held_bytes -= self._size  # noqa: SLF001 - part of it
        if not self._scheduler._held_bytes:  # noqa: SLF001 - part of it
            self._scheduler.idle_since = time.monotonic()


def _batches(jobs: Sequence[Job[Any]], now: float) -> list[list[int]]:
    """Sort jobs that are in time into batches, by their indices."""
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
