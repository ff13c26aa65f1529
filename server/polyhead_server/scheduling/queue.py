"""The jobs that wait for a run: the order in which they run, and which of them run together."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import DeadlineError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from polyhead_server.scheduling.job import Job, RunnableBatch

__all__ = ["BatchQueue", "JobQueue", "QueueEntry"]


class QueueEntry:
    """A job that waits or runs, and the future through which its caller gets the outcome."""

    __slots__ = ("batch", "job", "num_tokens", "number", "outcome", "queue")

    def __init__(self, job: Job[Any], outcome: asyncio.Future[Any]) -> None:
        self.job = job
        self.outcome = outcome
        self.num_tokens = job.num_tokens
        self.number = 0
        """Place in the order of arrival."""
        self.queue: BatchQueue | None = None
        """The queue in which the job waits; None: it does not wait."""
        self.batch: RunnableBatch[Any] | None = None
        """The batch in which the job runs; None: it has not begun."""

    def finish(self, outcome: object) -> None:
        """Pass the outcome to the caller, unless the caller has cancelled."""
        if self.outcome.done():
            return
        if isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class BatchQueue:
    """The waiting jobs of one batch key, oldest first; or all jobs without one, which run alone.

    Invariant: `num_tokens` is the sum of the entries' tokens.
    """

    __slots__ = ("batch_key", "entries", "is_listed", "num_tokens")

    def __init__(self, batch_key: Hashable | None) -> None:
        self.batch_key = batch_key
        self.entries: OrderedDict[int, QueueEntry] = OrderedDict()
        """By number. A plain dict would take linear time to find its first entry."""
        self.num_tokens = 0
        self.is_listed = False
        """Whether JobQueue lists it among the full ones."""

    @property
    def oldest(self) -> QueueEntry:
        """The entry that came first; the queue must not be empty."""
        return next(iter(self.entries.values()))

    @property
    def is_full(self) -> bool:
        """Whether a batch of its oldest jobs has no room for another."""
        if not self.entries or self.batch_key is None:
            return bool(self.entries)
        return self.num_tokens >= self.oldest.job.max_batch_tokens

    def collect_batch(self, now: float) -> tuple[list[QueueEntry], list[QueueEntry]]:
        """Find the oldest jobs that fit into one batch, and the late jobs between them.

        Visits these and one more. The first job is taken even if it alone exceeds a batch.
        """
        batch: list[QueueEntry] = []
        late: list[QueueEntry] = []
        num_tokens = max_tokens = 0
        for entry in self.entries.values():
            if entry.job.deadline.has_passed(now):
                late.append(entry)
                continue
            if not batch:
                max_tokens = entry.job.max_batch_tokens
            elif self.batch_key is None or num_tokens + entry.num_tokens > max_tokens:
                break
            batch.append(entry)
            num_tokens += entry.num_tokens
        return batch, late


class JobQueue:
    """The waiting jobs of all batch keys. No operation takes longer when more jobs wait.

    The next batch is that of the oldest job which need not wait for batch mates. A job waits for
    them at most ``max_delay_s``, and only while the jobs of its batch key do not fill a batch.
    A late job, one whose deadline has passed, is refused when it comes up for a batch.

    Invariants:

    - `_entries` holds all waiting jobs by number, and `_queues` the same jobs by batch key. So the
      oldest job of all is also the oldest of its batch key.
    - If the oldest job of all has not waited for ``max_delay_s``, no other job has.
    - With a delay, `_full` is a heap that has one item for each listed queue, and every full queue
      is listed. An item's number is that of the queue's oldest job, or of one that was the oldest
      before: lower, so the queue surfaces in time and then gets its number set right.
    """

    def __init__(self, max_delay_s: float = 0.0) -> None:
        self._max_delay_s = max_delay_s
        self._entries: OrderedDict[int, QueueEntry] = OrderedDict()
        self._queues: dict[Hashable | None, BatchQueue] = {}
        self._full: list[tuple[int, BatchQueue]] = []
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: QueueEntry) -> None:
        """Add a job as the youngest."""
        self._last_number += 1
        batch_key = entry.job.batch_key
        queue = self._queues.get(batch_key)
        if queue is None:
            queue = self._queues[batch_key] = BatchQueue(batch_key)
        entry.number, entry.queue = self._last_number, queue
        self._entries[entry.number] = queue.entries[entry.number] = entry
        queue.num_tokens += entry.num_tokens
        if self._max_delay_s and not queue.is_listed and queue.is_full:
            heappush(self._full, (queue.oldest.number, queue))
            queue.is_listed = True

    def remove(self, entry: QueueEntry) -> None:
        """Remove a job and every reference to it, wherever it waits; or do nothing."""
        queue = entry.queue
        if queue is None:
            return
        entry.queue = None
        del self._entries[entry.number], queue.entries[entry.number]
        queue.num_tokens -= entry.num_tokens
        if not queue.entries and not queue.is_listed:
            del self._queues[queue.batch_key]
        if not self._entries:  # listed queues stay for as long as others wait
            self._queues.clear()
            self._full.clear()

    def take_batch(self, now: float) -> list[QueueEntry]:
        """Remove the jobs of the next run, and return them; empty if there is none at this time."""
        while (queue := self._next_queue(now)) is not None:
            batch, late = queue.collect_batch(now)
            for entry in late or batch:
                self.remove(entry)
            if not late:
                return batch
            # The queue may have been chosen for its late jobs: refuse them, and choose again.
            for entry in late:
                entry.finish(DeadlineError.before_run())
        return []

    def delay_s(self, now: float) -> float:
        """Return how long the oldest job may still wait for batch mates; not if none waits."""
        oldest = next(iter(self._entries.values()))
        return oldest.job.arrived + self._max_delay_s - now

    def _next_queue(self, now: float) -> BatchQueue | None:
        """Find the queue of the oldest job that need not wait any longer."""
        if self._entries and self.delay_s(now) <= 0:
            return next(iter(self._entries.values())).queue
        while self._full:
            number, queue = self._full[0]
            if not queue.is_full:
                heappop(self._full)
                queue.is_listed = False
                if not queue.entries:
                    del self._queues[queue.batch_key]
            elif queue.oldest.number != number:
                heapreplace(self._full, (queue.oldest.number, queue))
            else:
                return queue
        return None
