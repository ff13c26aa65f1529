"""The queue of waiting jobs: its order equals a plain implementation's; its cost is counted."""

from __future__ import annotations

import asyncio
import random
import weakref
from itertools import pairwise
from typing import ClassVar

import pytest

from polyhead_server.deadline import Deadline
from polyhead_server.errors import DeadlineError
from polyhead_server.scheduling.job import Job
from polyhead_server.scheduling.queue import JobQueue, QueueEntry

MAX_TOKENS = 8


class FakeJob(Job):
    """A job that counts how often a queue reads from jobs."""

    num_reads = 0
    reads_at_starts: ClassVar = []

    def __init__(self, batch_key=None, num_tokens=1, deadline_s=None):
        super().__init__(Deadline(deadline_s), runs_inline=False)
        self._batch_key, self._num_tokens = batch_key, num_tokens

    @property
    def batch_key(self):
        FakeJob.num_reads += 1
        return self._batch_key

    @property
    def num_tokens(self):
        FakeJob.num_reads += 1
        return self._num_tokens

    @property
    def deadline(self):
        FakeJob.num_reads += 1
        return self._deadline

    @deadline.setter
    def deadline(self, deadline):
        self._deadline = deadline

    @property
    def max_batch_tokens(self):
        FakeJob.num_reads += 1
        return MAX_TOKENS

    def make_batch(self, others):
        FakeJob.reads_at_starts.append(FakeJob.num_reads)
        return FakeBatch(1 + len(others))


class FakeBatch:
    """A batch that does nothing."""

    def __init__(self, size):
        self._size = size

    def run(self):
        return [None] * self._size

    def cancel_one(self):
        pass


class Outcome:
    """The part of a future that a queue uses."""

    def __init__(self):
        self.error = None

    def done(self):
        return False

    def set_exception(self, error):
        self.error = error


class PlainQueue:
    """A queue with the same order that looks at every job for every batch."""

    def __init__(self, max_delay_s):
        self._max_delay_s = max_delay_s
        self.entries = []

    def append(self, entry):
        self.entries.append(entry)

    def remove(self, entry):
        self.entries.remove(entry)

    def take_batch(self, now):
        self.entries = [e for e in self.entries if not e.job.deadline.has_passed(now)]
        for oldest in self.entries:
            key = oldest.job.batch_key
            same = [e for e in self.entries if e.job.batch_key == key]
            count = 1
            while count < len(same) and sum(e.num_tokens for e in same[: count + 1]) <= MAX_TOKENS:
                count += 1
            batch = same[:1] if key is None else same[:count]
            is_full = key is None or sum(e.num_tokens for e in same) >= MAX_TOKENS
            if is_full or oldest.job.arrived + self._max_delay_s <= now:
                self.entries = [e for e in self.entries if e not in batch]
                return batch
        return []


@pytest.mark.parametrize("max_delay_s", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(40))
def test_batches_equal_those_of_a_plain_implementation(max_delay_s, seed):
    """With jobs of all sizes that come, are cancelled, get late and start, in any order."""
    chance = random.Random(seed)
    num_keys = chance.choice([1, 3, 20])
    queue, plain, now, waiting = JobQueue(max_delay_s), PlainQueue(max_delay_s), 0.0, []
    for _ in range(600):
        now += chance.choice([0.0, 0.0, 0.1, 1.0])
        action = chance.random()
        if action < 0.6:
            key = chance.choice([None, *range(num_keys)])
            deadline_s = chance.choice([None, None, now + chance.random() * 5])
            job = FakeJob(key, chance.choice([1, 1, 2, 5, 8, 9]), deadline_s)
            job.arrived = now
            entry = QueueEntry(job, Outcome())
            waiting.append(entry)
            queue.append(entry)
            plain.append(entry)
        elif action < 0.7 and plain.entries:
            entry = chance.choice(plain.entries)
            queue.remove(entry)
            queue.remove(entry)  # does nothing
            plain.remove(entry)
        else:
            assert queue.take_batch(now) == plain.take_batch(now)
        refused = [e for e in waiting if e.outcome.error is not None]
        assert all(e.job.deadline.has_passed(now) for e in refused)
        # jobs whose deadline has passed are refused when they come up, not before
        late = [e for e in queue._entries.values() if e.job.deadline.has_passed(now)]
        on_time = [e for e in plain.entries if not e.job.deadline.has_passed(now)]
        assert len(queue) == len(on_time) + len(late)
        tokens = {key: own.num_tokens for key, own in queue._queues.items() if own.entries}
        assert sum(tokens.values()) == sum(e.num_tokens for e in queue._entries.values())


def test_late_jobs_are_refused_when_they_come_up():
    queue = JobQueue()
    entries = [
        QueueEntry(FakeJob("key", deadline_s=deadline_s), Outcome())
        for deadline_s in (1.0, None, 1.0, None, 1.0)
    ]
    for entry in entries:
        entry.job.arrived = 0.0
        queue.append(entry)
    assert queue.take_batch(2.0) == [entries[1], entries[3]]
    assert not queue
    errors = [entry.outcome.error for entry in entries]
    assert [isinstance(error, DeadlineError) for error in errors] == [True, False] * 2 + [True]


def test_a_cancelled_job_is_freed_at_once_wherever_it_waits():
    for max_delay_s in (0.0, 3.0):
        queue = JobQueue(max_delay_s)
        entries = [QueueEntry(FakeJob(index % 3 or None), None) for index in range(60)]
        for entry in entries:
            queue.append(entry)
        references = [weakref.ref(entry.job) for entry in entries]
        order = random.Random(1).sample(range(60), 60)
        for num_cancelled, index in enumerate(order, 1):
            queue.remove(entries[index])
            entries[index] = entry = None
            assert references[index]() is None
            assert len(queue) == 60 - num_cancelled
        assert not queue._queues
        assert not queue._full


def most_reads_per_start(make_scheduler, num_waiting, num_keys, **limits):
    """Start so many waiting jobs; return the most reads from jobs between two starts."""

    async def scenario():
        scheduler = make_scheduler(max_queue_size=2 * num_waiting, **limits)
        FakeJob.reads_at_starts.clear()
        jobs = [FakeJob(index % num_keys or None) for index in range(num_waiting)]
        runs = [asyncio.create_task(scheduler.run(job)) for job in jobs]
        await asyncio.gather(*runs)

    asyncio.run(scenario())
    starts = FakeJob.reads_at_starts[1:]  # the first job starts before the others come
    return max(later - sooner for sooner, later in pairwise(starts))


@pytest.mark.parametrize("max_queue_delay_s", [0.0, 0.01])
@pytest.mark.parametrize("num_keys", [1, 7, 500])
def test_the_cost_of_a_start_does_not_grow_with_the_queue(
    make_scheduler, num_keys, max_queue_delay_s
):
    """The cost is the number of reads from jobs, because a scan would read from each."""
    few, many = (
        most_reads_per_start(make_scheduler, n, num_keys, max_queue_delay_s=max_queue_delay_s)
        for n in (1000, 20_000)
    )
    assert many <= 10 * MAX_TOKENS
    assert few <= 10 * MAX_TOKENS
