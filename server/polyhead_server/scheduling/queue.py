"""The waiting jobs: in which order they run, and which of them run as one batch."""

from __future__ import annotations

from collections import OrderedDict, deque
from heapq import heappop, heappush, heapreplace
from itertools import chain
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import DeadlineError
from polyhead_server.origin import NO_ORIGIN
from polyhead_server.scheduling.shares import CallerShares
from polyhead_server.scheduling.turns import Turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Iterator

    from polyhead_server.origin import Origin
    from polyhead_server.scheduling.job import Job
    from polyhead_server.scheduling.run import Run

__all__ = ["BatchQueue", "JobQueue", "QueueEntry"]


class QueueEntry:
    """A job that waits or runs, and the future of its outcome, which its caller awaits."""

    __slots__ = ("job", "num_tokens", "number", "origin", "outcome", "queue", "run")

    def __init__(
        self, job: Job[Any], outcome: asyncio.Future[Any], origin: Origin = NO_ORIGIN
    ) -> None:
        self.job = job
        self.outcome = outcome
        self.origin = origin
        self.num_tokens = job.num_tokens
        self.number = 0
        """Number in the order of arrival."""
        self.queue: BatchQueue | None = None
        """The batch queue in which the job waits; None if it does not wait."""
        self.run: Run | None = None
        """The run of the job; None if it has not begun."""

    def finish(self, outcome: object) -> None:
        """Pass the outcome to the caller, unless the caller has cancelled."""
        if self.outcome.done():
            return
        if isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class BatchQueue:
    """The waiting jobs of one batch key, oldest first; or those without a key, which run alone.

    Invariants: `num_tokens` is the sum of the entries' tokens; `_by_origin` has the same entries.
    """

    __slots__ = ("_by_origin", "batch_key", "entries", "is_listed", "num_tokens")

    def __init__(self, batch_key: Hashable | None) -> None:
        self.batch_key = batch_key
        self.entries: OrderedDict[int, QueueEntry] = OrderedDict()
        """By number. A plain dict would take linear time to find its first entry."""
        self._by_origin: OrderedDict[Origin, OrderedDict[int, QueueEntry]] = OrderedDict()
        self.num_tokens = 0
        self.is_listed = False
        """Whether JobQueue lists this queue among the full ones."""

    def append(self, entry: QueueEntry) -> None:
        """Add an entry as the youngest."""
        self.entries[entry.number] = entry
        self._by_origin.setdefault(entry.origin, OrderedDict())[entry.number] = entry
        self.num_tokens += entry.num_tokens

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry."""
        callers_entries = self._by_origin[entry.origin]
        del self.entries[entry.number], callers_entries[entry.number]
        if callers_entries:
            self._by_origin.move_to_end(entry.origin)
        else:
            del self._by_origin[entry.origin]
        self.num_tokens -= entry.num_tokens

    @property
    def oldest(self) -> QueueEntry:
        """The entry that arrived first; the queue must not be empty."""
        return next(iter(self.entries.values()))

    @property
    def is_full(self) -> bool:
        """Whether a batch of the oldest jobs has no room for another job."""
        if not self.entries or self.batch_key is None:
            return bool(self.entries)
        return self.num_tokens >= self.oldest.job.max_batch_tokens

    def collect_batch(
        self, first: QueueEntry, now: float
    ) -> tuple[list[QueueEntry], list[QueueEntry]]:
        """Return jobs that fit into one batch with the first one, and the late jobs between them.

        The jobs are taken from the callers in turn, the oldest of each caller first. Only these
        jobs and one more are visited. The first job is taken even if it alone exceeds a batch.
        """
        batch: list[QueueEntry] = []
        late: list[QueueEntry] = []
        num_tokens = max_tokens = 0
        for entry in self._in_turn(first.origin):
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

    def _in_turn(self, first: Origin) -> Iterator[QueueEntry]:
        """Yield one entry of each caller, the oldest first, then another of each, and so on."""
        others = (entries for origin, entries in self._by_origin.items() if origin != first)
        turns: deque[Iterator[QueueEntry]] = deque()
        for callers_entries in chain((self._by_origin[first],), others):
            entries = iter(callers_entries.values())
            yield next(entries)
            turns.append(entries)
        while turns:
            entries = turns.popleft()
            if (entry := next(entries, None)) is not None:
                yield entry
                turns.append(entries)


class JobQueue:
    """The waiting jobs of all batch keys. No operation takes longer when more jobs wait.

    The next batch begins with the oldest job of the peer and caller with the least computing time
    (see Turns). With ``max_delay_s`` a job first waits for others of its batch: at most this
    long, and only while the jobs of its batch key do not fill a batch. A late job, one whose
    deadline has passed, is refused when it is taken for a batch.

    Invariants:

    - `_entries` has all waiting jobs by number, `_queues` by batch key, `_turns` by peer and
      caller. So the oldest job of all is also the oldest of its batch key.
    - If the oldest job of all has not waited for ``max_delay_s``, no other job has.
    - With a delay, `_full` is a heap with one item for each listed queue, and every full queue is
      listed. The number of an item may be that of an older job that has left. It is then too low,
      never too high, so it comes up in time. It is corrected when it does.
    """

    def __init__(self, max_delay_s: float = 0.0, shares: CallerShares | None = None) -> None:
        self._max_delay_s = max_delay_s
        self._shares = shares or CallerShares()
        self._entries: OrderedDict[int, QueueEntry] = OrderedDict()
        self._queues: dict[Hashable | None, BatchQueue] = {}
        self._turns = Turns(self._shares)
        self._full: list[tuple[int, BatchQueue]] = []
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._entries)

    def num_of_peer(self, origin: Origin) -> int:
        """Return the number of a peer's waiting jobs."""
        return self._turns.num_of_peer(origin)

    def num_of_caller(self, origin: Origin) -> int:
        """Return the number of a caller's waiting jobs."""
        return self._turns.num_of_caller(origin)

    def longest_wait_s(self, origin: Origin, now: float) -> float:
        """Return the waiting time of a caller's oldest job; 0 if none waits."""
        oldest = self._turns.oldest_of_caller(origin)
        return 0.0 if oldest is None else now - oldest.job.arrived

    def charge(self, entry: QueueEntry, seconds: float) -> None:
        """Add to the computing time of a job's caller, and of its peer."""
        self._shares.charge(entry.origin.peer, seconds)
        self._turns.charge(entry.origin, seconds)

    def append(self, entry: QueueEntry) -> None:
        """Add a job as the youngest."""
        self._last_number += 1
        batch_key = entry.job.batch_key
        queue = self._queues.get(batch_key)
        if queue is None:
            queue = self._queues[batch_key] = BatchQueue(batch_key)
        entry.number, entry.queue = self._last_number, queue
        self._entries[entry.number] = entry
        queue.append(entry)
        self._turns.append(entry)
        if self._max_delay_s and not queue.is_listed and queue.is_full:
            heappush(self._full, (queue.oldest.number, queue))
            queue.is_listed = True

    def remove(self, entry: QueueEntry) -> None:
        """Remove a job and every reference to it, if it waits."""
        queue = entry.queue
        if queue is None:
            return
        entry.queue = None
        del self._entries[entry.number]
        self._turns.remove(entry)
        queue.remove(entry)
        if not queue.entries and not queue.is_listed:
            del self._queues[queue.batch_key]
        if not self._entries:  # items of heaps stay in their containers as long as others wait
            for container in (self._queues, self._turns, self._full):
                container.clear()

    def next_turn(self, now: float) -> tuple[float, float] | None:
        """Return the next batch's key in the order of turns; None if no batch is to run now.

        The key has the computing time of the first job's peer, and the job's arrival. The queue
        with the lower key has the next turn.
        """
        first = self._next_entry(now)
        return None if first is None else (self._shares.used(first.origin.peer), first.job.arrived)

    def take_batch(self, now: float) -> list[QueueEntry]:
        """Remove the jobs of the next run, and return them; empty if no run is due."""
        while (first := self._next_entry(now)) is not None:
            assert first.queue is not None
            batch, late = first.queue.collect_batch(first, now)
            for entry in late or batch:
                self.remove(entry)
            if not late:
                self._turns.begin_turn(first.origin)
                return batch
            # The queue may have been full because of its late jobs: refuse them, and choose again.
            for entry in late:
                entry.finish(DeadlineError.before_run())
        return []

    def delay_s(self, now: float) -> float:
        """Return how long the oldest job may still wait for its batch. Some job must wait."""
        oldest = next(iter(self._entries.values()))
        return oldest.job.arrived + self._max_delay_s - now

    def age_s(self, now: float) -> float:
        """Return the waiting time of the oldest job; 0 if none waits."""
        oldest = next(iter(self._entries.values()), None)
        return 0.0 if oldest is None else now - oldest.job.arrived

    def _next_entry(self, now: float) -> QueueEntry | None:
        """Return the first job of the next batch; None if no batch is to run now."""
        if self._entries and self.delay_s(now) <= 0:
            return self._turns.next_entry()
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
                return queue.oldest
        return None
