"""A batch while a thread runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead_server.scheduling.job import RunnableBatch
    from polyhead_server.scheduling.queue import QueueEntry

__all__ = ["Run"]


class Run:
    """The run of one batch of jobs."""

    def __init__(self, entries: list[QueueEntry], started: float) -> None:
        first, *others = entries
        self.entries = entries
        self.started = started
        """When the run began, on the scheduler's clock."""
        self.is_short = first.job.is_short
        self.batch: RunnableBatch[Any] = first.job.make_batch([entry.job for entry in others])
        self.is_abandoned = False
        """Whether the run's slot was given to another run."""
        self.has_ended = False
        self._num_awaited = len(entries)
        for entry in entries:
            entry.run = self

    def cancel_one(self) -> bool:
        """Drop one job's outcome; return whether all outcomes are dropped."""
        self.batch.cancel_one()
        self._num_awaited -= 1
        return not self._num_awaited

    def finish(self, results: Sequence[Any] | BaseException) -> None:
        """Pass the outcomes to the callers."""
        entries, self.entries = self.entries, []  # because each entry refers to its run: a cycle
        self.has_ended = True
        if isinstance(results, BaseException):
            results = [results] * len(entries)
        for entry, result in zip(entries, results, strict=True):
            entry.finish(result)
