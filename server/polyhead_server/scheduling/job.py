"""Jobs: the units that the scheduler runs, each by itself or several as one batch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from polyhead_server.call import RunTimes, Timing
from polyhead_server.engine.runs.cancellable import (
    CancellableRun,
    RunCancelledError,
    is_out_of_memory,
)
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.errors import LimitExceededError, RequestError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from polyhead_server.call import Arrays, ExecutionInfo
    from polyhead_server.deadline import Deadline
    from polyhead_server.planning.prepared_call import PreparedCall

__all__ = ["Job", "Request", "RequestJob", "RunnableBatch", "to_request_error"]

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Request(Protocol[_T_co]):
    """One or several requests of one template, as bytes. The methods' time grows with the size."""

    times: RunTimes | None
    """The times of their run; None before."""

    @property
    def count(self) -> int:
        """Number of requests."""

    def arrays(self) -> Arrays:
        """Return the arrays of all requests, along the first axis. Raises InvalidRequestError."""

    def respond(self, executed_by: ExecutionInfo, outputs: Any, timing: Timing) -> _T_co:  # noqa: ANN401 - each kind of model has its own
        """Write the response. Raises RequestError."""


class RunnableBatch(Protocol[_T_co]):
    """Jobs that one thread runs as one batch."""

    def run(self) -> Sequence[_T_co | Exception]:
        """Return each job's result, or its error."""

    def cancel_one(self) -> None:
        """Drop one job's result. When all results are dropped, the run ends."""


class Job(ABC, Generic[_T]):
    """A request that waits to be run."""

    batch_key: Hashable | None = None
    """Jobs with equal keys can run together, as one batch; None means that the job runs alone."""
    num_tokens = 0
    """The job's tokens, which count towards max_batch_tokens."""
    max_batch_tokens = 0
    """Most tokens in a batch of several jobs."""
    is_short = True
    """Whether a run is so short that it must not wait for runs of seconds."""

    has_begun = False
    """Whether the job had a run, and waits for another."""

    def __init__(self, deadline: Deadline, *, runs_inline: bool) -> None:
        self.deadline = deadline
        self.arrived = time.monotonic()
        """When the job began to wait for its run."""
        self.runs_inline = runs_inline
        """Whether a run takes less time than handing it to a worker thread."""

    @abstractmethod
    def make_batch(self, others: Sequence[Job[_T]]) -> RunnableBatch[_T]:
        """Make a batch of this job and others with its batch key."""


class RequestJob(Job[_T]):
    """A request with one response, or a group of requests that is run and answered as one."""

    def __init__(self, prepared: PreparedCall, request: Request[_T], deadline: Deadline) -> None:
        super().__init__(deadline, runs_inline=prepared.runs_inline)
        self.prepared = prepared
        self.request = request
        self.batch_key = prepared.batch_key
        self.num_tokens = prepared.num_tokens * request.count
        self.max_batch_tokens = prepared.max_batch_tokens
        self.is_short = prepared.is_short(request.count)
        self.batch_size = prepared.batch_size * request.count
        """Length of the batch axis of all requests of the job together."""

    def make_batch(self, others: Sequence[Job[_T]]) -> RunnableBatch[_T]:
        """Make a batch."""
        return _Batch([self, *others])


class _Batch(Generic[_T]):
    """Jobs with one batch key, run as one.

    Callers do not notice batching. Invalid values fail their own request only, because each job is
    run by itself if the batch fails. A group is not split here: InlineBatcher splits it.
    """

    def __init__(self, jobs: list[Any]) -> None:
        self._jobs: list[RequestJob[_T]] = jobs
        self._num_subscribers = len(jobs)
        self._run: CancellableRun | None = None

    def cancel_one(self) -> None:
        """Drop one job's result. When all results are dropped, the run ends."""
        self._num_subscribers -= 1
        if not self._num_subscribers and self._run:
            self._run.cancel()

    def run(self) -> list[_T | Exception]:
        """Run the jobs together, or each by itself if that fails."""
        jobs, started = self._jobs, time.monotonic()
        try:
            return self._run_batch(jobs, started)
        except Exception as error:  # noqa: BLE001 - becomes the requests' status
            if len(jobs) == 1 or not self._num_subscribers:
                for job in jobs:
                    _count_failure(job)
                return [to_request_error(error)] * len(jobs)
        return [self._run_single(job, started) for job in jobs]

    def _run_single(self, job: RequestJob[_T], started: float) -> _T | Exception:
        try:
            return self._run_batch([job], started)[0]
        except Exception as error:  # noqa: BLE001 - becomes the request's status
            _count_failure(job)
            return to_request_error(error)

    def _run_batch(self, jobs: Sequence[RequestJob[_T]], started: float) -> list[_T | Exception]:
        prepared, request = jobs[0].prepared, jobs[0].request
        model = prepared.model
        batch_size = sum([job.batch_size for job in jobs])
        max_size = batch_size
        if len(jobs) == 1 and request.count > 1:  # a group may need several runs
            max_size = min(batch_size, prepared.batch_size * prepared.calls_per_run)
        arrays = request.arrays() if len(jobs) == 1 else _concatenate(jobs)
        compute = prepared.bind(arrays, max_size)
        run = None
        if not jobs[0].runs_inline:  # an inline run ends before it can be cancelled
            run = self._run = CancellableRun(prepared.run_options(len(jobs)))
            if not self._num_subscribers:
                raise RunCancelledError
        begun = time.monotonic()
        outputs: Any = compute(None) if run is None else run(partial(compute, run.options))
        ended = time.monotonic()
        parts: list[Any] = [outputs]
        if len(jobs) > 1:
            parts = prepared.split(outputs, [job.batch_size for job in jobs])
        responses: list[_T | Exception] = []
        timings: list[RequestTiming] = []
        compute_ms = (ended - begun) * 1e3
        for job, part in zip(jobs, parts, strict=True):
            queue_s = started - job.arrived
            timing = Timing(queue_s * 1e3, compute_ms, max_size)
            job.request.times = RunTimes(job.arrived, started, ended)
            responses.append(job.request.respond(model.execution_info, part, timing))
            timings.append(
                RequestTiming(
                    job.prepared.batch_size,
                    queue_s,
                    job.request.count,
                    job.prepared.num_tokens,
                )
            )
        times = RunTimestamps(started, begun, ended, time.monotonic())
        model.statistics.add(max_size, times, timings, -(-batch_size // max_size))
        return responses


def _count_failure(job: RequestJob[Any]) -> None:
    """Count a failure in the model's statistics, except of a group, whose requests run again."""
    if job.request.count == 1:
        job.prepared.model.statistics.add_failure(time.monotonic() - job.arrived)


def _concatenate(jobs: Sequence[RequestJob[Any]]) -> Arrays:
    """Join the arrays of several jobs along the batch axis."""
    arrays = [job.request.arrays() for job in jobs]
    return {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}


def to_request_error(error: Exception) -> Exception:
    """Turn an error into the caller's error, without references to frames.

    The frames refer to the request, and one of them to the error. This cycle would keep the request
    in memory until the garbage collector finds it. Unexpected errors keep their frames, which are
    logged.
    """
    if is_out_of_memory(error):
        return LimitExceededError(
            "memory",
            "the server has too little memory for a request of this size; "
            "send a smaller batch or shorter sequences",
            "OUT_OF_MEMORY",
        )
    if isinstance(error, RequestError | RunCancelledError):
        error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
