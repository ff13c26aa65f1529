"""Decides when and where a job runs: at once on the event loop, or in its turn in a thread."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from polyhead_server.errors import DeadlineError, OverloadedError, unwrap
from polyhead_server.origin import NO_ORIGIN
from polyhead_server.scheduling.memory_budget import MemoryBudget
from polyhead_server.scheduling.queue import JobQueue, QueueEntry
from polyhead_server.scheduling.run import Run
from polyhead_server.scheduling.shares import CallerShares
from polyhead_server.scheduling.slots import RunSlots
from polyhead_server.scheduling.threads import WorkerThreads

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from polyhead_server.origin import Origin
    from polyhead_server.scheduling.job import Job
    from polyhead_server.scheduling.memory_budget import Reservation

__all__ = ["Load", "Scheduler"]

_T = TypeVar("_T")

_RETRY_AFTER_MS = 100
_MAX_OWN_PER_FREE_PLACE = 16
"""Most places of the queue that one caller may have, for each place that is free for others."""
_MAX_OF_PEER_PER_FREE_PLACE = 32
"""The same for all callers of one peer, so that some of their places are left to other peers."""

_WAIT_MARGIN = 1.25
"""A job is expected to wait and run at most this factor longer than the caller's oldest job."""


class Load(NamedTuple):
    """The load of a scheduler at one moment, and its limits."""

    num_waiting: int
    """Jobs that wait for their run."""
    max_waiting: int
    oldest_s: float
    """Waiting time of the oldest job, in seconds."""
    num_running: int
    """Runs in worker threads."""
    max_running: int
    """Most runs at once. As many short runs again may go on beside long ones."""
    held_bytes: int
    """Bytes that are reserved for requests, from their arrival to their response."""
    max_held_bytes: int


class Scheduler:
    """Runs jobs on one event loop and its worker threads, as many at once as RunSlots allows.

    The other jobs wait in two JobQueues, one for short jobs and one for long jobs. A JobQueue joins
    jobs of one batch key to a batch, and gives the next turn to the caller with the least computing
    time. With ``max_queue_delay_s`` a batch that is not full waits for more jobs, at most this
    long after the arrival of its oldest job. Without it no batch waits while a slot is free.

    A waiting job does not run if its caller cancels it or its deadline passes. When all callers of
    a batch have cancelled, its run ends at the next node of the graph. The run's slot is free
    ``abandon_after_s`` later at the latest.

    Invariant: while a slot is free for a queue, each job of the queue waits for others of its
    batch, and a timer is set for the oldest job.
    """

    def __init__(
        self,
        max_concurrent_runs: int,
        max_queue_size: int,
        max_queue_bytes: int,
        max_queue_delay_s: float = 0.0,
        *,
        abandon_after_s: float = 0.1,
        max_peer_share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = RunSlots(max_concurrent_runs)
        self._max_concurrent_runs = max_concurrent_runs
        self._threads = WorkerThreads("polyhead-run")
        shares = CallerShares()
        self._queues = {is_short: JobQueue(max_queue_delay_s, shares) for is_short in (True, False)}
        """The waiting jobs: short ones under True, long ones under False."""
        self._abandon_after_s = abandon_after_s
        self._max_queue_size = max_queue_size
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._memory = MemoryBudget(max_queue_bytes, max_peer_share, clock=clock)

    @property
    def idle_since(self) -> float | None:
        """When the last request ended, on the monotonic clock; None before, and during requests."""
        return self._memory.idle_since

    @property
    def num_waiting(self) -> int:
        """Number of waiting jobs."""
        return sum(map(len, self._queues.values()))

    @property
    def num_running(self) -> int:
        """Number of runs in worker threads."""
        return self._slots.num_taken

    def reserve_bytes(self, size: int, origin: Origin = NO_ORIGIN) -> Reservation:
        """Reserve ``size`` bytes for a request, until they are released.

        Raises OverloadedError if too many bytes would be reserved, in all or for this peer.
        """
        return self._memory.reserve(size, origin.peer)

    async def run(self, job: Job[_T], origin: Origin = NO_ORIGIN) -> _T:
        """Run one job of a caller: inline if it is very small, else in the caller's turn.

        Raises OverloadedError if the queue is full, DeadlineError if the deadline passes before the
        run begins, and the exception that ends the run.
        """
        job.arrived = self._clock()
        if job.runs_inline:
            job.deadline.check()
            return unwrap(*job.make_batch(()).run())
        entry = self._enqueue(job, origin)
        try:
            result: _T = await entry.outcome
        except asyncio.CancelledError:
            self._cancel(entry)
            raise
        finally:
            del entry  # its outcome may be an exception whose traceback refers here: see `unwrap`
        return result

    def run_inline(self, jobs: Sequence[Job[_T]]) -> list[_T | Exception]:
        """Run jobs of one message inline: one batch for each batch key."""
        results: dict[int, _T | Exception] = {}
        for indices in _inline_batches(jobs, self._clock()):
            first, *others = indices
            batch = jobs[first].make_batch([jobs[index] for index in others])
            results.update(zip(indices, batch.run(), strict=True))
        self._memory.note_request()
        return [
            results[index] if index in results else DeadlineError.before_run()
            for index in range(len(jobs))
        ]

    def load(self) -> Load:
        """Return the load at this moment."""
        now = self._clock()
        return Load(
            num_waiting=self.num_waiting,
            max_waiting=self._max_queue_size,
            oldest_s=max(queue.age_s(now) for queue in self._queues.values()),
            num_running=self.num_running,
            max_running=self._max_concurrent_runs,
            held_bytes=self._memory.held_bytes,
            max_held_bytes=self._memory.max_bytes,
        )

    def close(self) -> None:
        """Wait for the runs, and end the threads."""
        self._threads.close()

    def _enqueue(self, job: Job[Any], origin: Origin) -> QueueEntry:
        queue = self._queues[job.is_short]
        num_waiting = self.num_waiting
        if num_waiting or not self._slots.is_free(is_short=job.is_short):
            self._check_room(num_waiting, origin)
            if not job.has_begun:
                self._check_deadline(job, origin)
        entry = QueueEntry(job, asyncio.get_running_loop().create_future(), origin)
        queue.append(entry)
        self._start_runs()
        return entry

    def _check_room(self, num_waiting: int, origin: Origin) -> None:
        """Refuse a job if the queue is full, or if its caller or peer has nearly all places."""
        num_free = self._max_queue_size - num_waiting
        if num_free <= 0:
            raise OverloadedError(
                f"{num_waiting} requests wait already, and no more may; "
                "try again shortly, or raise its --max-queue-size",
                _RETRY_AFTER_MS,
            )
        queues = self._queues.values()
        num_own = sum(queue.num_of_caller(origin) for queue in queues)
        num_of_peer = sum(queue.num_of_peer(origin) for queue in queues)
        whose = ""
        if num_own >= _MAX_OWN_PER_FREE_PLACE * num_free:
            whose = f"{num_own} of the {num_waiting} requests that wait are from this caller"
        elif num_of_peer >= _MAX_OF_PEER_PER_FREE_PLACE * num_free:
            whose = f"{num_of_peer} of the {num_waiting} requests that wait are from this address"
        if whose:
            raise OverloadedError(
                f"{whose}, and the {num_free} places left are for others; try again shortly, or "
                "send less at once",
                _RETRY_AFTER_MS,
            )

    def _check_deadline(self, job: Job[Any], origin: Origin) -> None:
        """Refuse a job that would wait beyond its deadline, by the caller's oldest waiting time.

        Otherwise the job would occupy one of its connection's concurrent streams for nothing. More
        and more calls would wait in the client. In the end each call that the client sends would
        have only a moment left, and none would be answered.
        """
        now = self._clock()
        waits_s = self._queues[job.is_short].longest_wait_s(origin, now)
        deadline = job.deadline
        if deadline.has_passed(now + _WAIT_MARGIN * waits_s) and not deadline.has_passed(now):
            raise OverloadedError(
                f"requests of this caller wait for {waits_s:.2f} s, and this one's deadline is "
                "sooner; send less at once, or set a later deadline",
                _RETRY_AFTER_MS,
            )

    def _cancel(self, entry: QueueEntry) -> None:
        """Remove a job whose caller has cancelled it from the queue, or from its run."""
        self._queues[entry.job.is_short].remove(entry)
        if entry.run is not None and entry.run.cancel_one():
            loop = asyncio.get_running_loop()
            loop.call_later(self._abandon_after_s, self._abandon, entry.run)

    def _abandon(self, run: Run) -> None:
        """Free the slot of a run whose callers have all cancelled, if the run goes on."""
        if not run.has_ended and self._slots.abandon(is_short=run.is_short):
            run.is_abandoned = True
            self._start_runs()

    def _start_runs(self) -> None:
        """Start runs until no slot is free, or each waiting job waits for others of its batch."""
        now = self._clock()
        while (queue := self._next_queue(now)) is not None:
            if entries := queue.take_batch(now):
                self._start(Run(entries, now))
        delays_s = [
            queue.delay_s(now)
            for is_short, queue in self._queues.items()
            if queue and self._slots.is_free(is_short=is_short)
        ]
        if delays_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(min(delays_s), self._start_runs)

    def _next_queue(self, now: float) -> JobQueue | None:
        """Return the queue that has the next turn, among the queues with a free slot."""
        turns = [
            (turn, queue)
            for is_short, queue in self._queues.items()
            if self._slots.is_free(is_short=is_short) and (turn := queue.next_turn(now))
        ]
        return min(turns, key=itemgetter(0))[1] if turns else None

    def _start(self, run: Run) -> None:
        self._slots.take(is_short=run.is_short)
        for entry in run.entries:
            entry.job.has_begun = True
        self._threads.start(run.batch.run, partial(self._finish, run))

    def _finish(self, run: Run, results: Sequence[Any] | BaseException) -> None:
        if run.is_abandoned:
            self._slots.end_abandoned()
        else:
            self._slots.give_back(is_short=run.is_short)
        seconds = (self._clock() - run.started) / len(run.entries)
        for entry in run.entries:
            self._queues[run.is_short].charge(entry, seconds)
        run.finish(results)
        self._start_runs()


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
