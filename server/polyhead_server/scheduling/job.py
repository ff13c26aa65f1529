"""What the scheduler places: requests, each alone or several as one batch."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from polyhead_server.call import AttentionOutputs, Timing
from polyhead_server.engine.attention_run import AttentionRun
from polyhead_server.engine.cancellable import CancellableRun, RunCancelledError
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.errors import LimitExceededError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from polyhead_server.call import Arrays
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.runtime import Model
    from polyhead_server.planning.plan import CallPlan

__all__ = [
    "AttendJob",
    "Batch",
    "Job",
    "Request",
    "RunnableBatch",
    "is_out_of_memory",
    "to_request_error",
]

_OUT_OF_MEMORY = re.compile("bad_alloc|failed to allocate memory", re.IGNORECASE)
"""What ONNX Runtime's errors say then."""
_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Request(Protocol[_T_co]):
    """A request as the edge of the server holds it: in bytes. Both take time by its size."""

    def arrays(self) -> Arrays:
        """Read its arrays. Raises InvalidRequestError."""

    def reply(self, model: Model, outputs: AttentionOutputs, timing: Timing) -> _T_co:
        """Write what it is answered with."""


class RunnableBatch(Protocol[_T_co]):
    """What one thread does in one go for one job or several."""

    def run(self) -> Sequence[_T_co | Exception]:
        """Give each job's result, or what became of it instead."""

    def cancel_one(self) -> None:
        """Tell that one of the jobs is not wanted any more; the last one ends the run."""


class Job(ABC, Generic[_T]):
    """One request's need of a run."""

    batch_key: Hashable | None = None
    """What it has in common with jobs that it can share a run with; None: with none."""

    def __init__(self, deadline: Deadline, *, runs_inline: bool) -> None:
        self.deadline = deadline
        self.arrived = time.monotonic()
        """When it began to wait for its run."""
        self.runs_inline = runs_inline
        """Whether it takes less time than handing it to another thread."""

    @property
    def num_tokens(self) -> int:
        """Queries or keys of all its sequences, whichever are more."""
        return 0

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a run that it shares."""
        return 0

    @abstractmethod
    def make_batch(self, others: Sequence[Job[_T]]) -> RunnableBatch[_T]:
        """Make what runs this job, and others with its batch key with it."""


class AttendJob(Job[_T]):
    """A request that is answered at once."""

    def __init__(
        self,
        model: Model,
        plan: CallPlan,
        batch_key: Hashable | None,
        request: Request[_T],
        deadline: Deadline,
        *,
        count: int = 1,
    ) -> None:
        """``count``: how many requests of this plan it is that are answered as one."""
        super().__init__(deadline, runs_inline=plan.cost.runs_inline)
        self.model = model
        self.plan = plan
        self.batch_key = batch_key
        self.count = count
        self.request = request

    @property
    def num_tokens(self) -> int:
        """Queries or keys of all its sequences, whichever are more."""
        return self.plan.num_tokens * self.count

    @property
    def max_batch_tokens(self) -> int:
        """Most tokens of a run that it shares."""
        return self.model.batching.max_tokens

    @property
    def num_sequences(self) -> int:
        """Of all its requests together."""
        return self.plan.call.batch_size * self.count

    @property
    def max_sequences(self) -> int:
        """Most of its sequences that run together."""
        return self.plan.call.batch_size * self.plan.num_per_run(self.max_batch_tokens)

    @property
    def multiply_adds(self) -> int:
        """What its run takes."""
        return self.plan.cost.multiply_adds * self.count

    def note_failure(self) -> None:
        """Add that it failed to the model's statistics; several are then run each by itself."""
        if self.count == 1:
            self.model.statistics.add_failure(time.monotonic() - self.arrived)

    def make_batch(self, others: Sequence[Job[_T]]) -> RunnableBatch[_T]:
        """Make a batch."""
        return _AttentionBatch([self, *others])


class Batch(ABC, Generic[_T]):
    """Requests of one batch key, run as one.

    None notices the others: what is wrong with the numbers of one is told to that one alone, and
    where the run fails, each is run by itself.
    """

    def __init__(self, jobs: list[Any]) -> None:
        self._jobs = jobs
        self._num_subscribers = len(jobs)
        self._run: CancellableRun | None = None

    @abstractmethod
    def _together(self, jobs: Sequence[Any], started: float) -> list[_T | Exception]:
        """Run these as one: a reply for each. `_begin` says that the run begins."""

    def _begin(self, run: CancellableRun | None = None) -> None:
        """Let this run be cancelled, if it can be.

        Raises RunCancelledError if none of the jobs is wanted any more.
        """
        self._run = run
        if not self._num_subscribers:
            raise RunCancelledError

    def cancel_one(self) -> None:
        """Note that one is not wanted any more."""
        self._num_subscribers -= 1
        if not self._num_subscribers and self._run:
            self._run.cancel()

    def run(self) -> list[_T | Exception]:
        """Run all of them."""
        started = time.monotonic()
        jobs = self._jobs
        try:
            return self._together(jobs, started)
        except Exception as error:  # noqa: BLE001 - becomes the request's status
            if len(jobs) == 1 or not self._num_subscribers:
                for job in jobs:
                    job.note_failure()
                return [to_request_error(error)] * len(jobs)
        return [self._alone(job, started) for job in jobs]

    def _alone(self, job: Any, started: float) -> _T | Exception:  # noqa: ANN401 - of its own kind
        try:
            return self._together([job], started)[0]
        except Exception as error:  # noqa: BLE001 - becomes the request's status
            job.note_failure()
            return to_request_error(error)


class _AttentionBatch(Batch[_T]):
    """Requests of one batch key, run as one batch of sequences."""

    def _together(self, jobs: Sequence[AttendJob[_T]], started: float) -> list[_T | Exception]:
        first, is_alone = jobs[0], len(jobs) == 1
        model, numbers = first.model, first.request.arrays() if is_alone else _joined(jobs)
        num_sequences = batch_size = len(numbers["query"])
        if is_alone and first.count > 1:
            batch_size = min(batch_size, first.max_sequences)
        run = self._make_run(jobs, numbers, batch_size)
        begun = time.monotonic()
        outputs = run()
        ended = time.monotonic()
        compute_ms = (ended - begun) * 1e3
        replies: list[_T | Exception] = []
        answered: list[RequestTiming] = []
        for job, part in zip(jobs, [outputs] if is_alone else _parts(outputs, jobs), strict=True):
            timing = Timing((started - job.arrived) * 1e3, compute_ms, batch_size)
            replies.append(job.request.reply(model, part, timing))
            answered.append(
                RequestTiming(job.plan.call.batch_size, started - job.arrived, job.count)
            )
        num_runs = -(-num_sequences // batch_size)
        model.statistics.add(
            batch_size,
            RunTimestamps(started, begun, ended, time.monotonic()),
            answered,
            num_runs,
        )
        return replies

    def _make_run(
        self, jobs: Sequence[AttendJob[_T]], numbers: Arrays, batch_size: int
    ) -> Callable[[], AttentionOutputs]:
        plan, model, whole = jobs[0].plan, jobs[0].model, jobs[0].plan.whole
        compute: Callable[..., AttentionOutputs] | None = None
        if whole is not None and batch_size <= whole.max_sequences:
            compute = partial(whole, model, plan.embeddings(numbers), batch_size)
            if plan.cost.runs_inline:
                self._begin()  # and it is over before anybody could cancel it
                return compute
        run = CancellableRun(model.run_options(sum(job.plan.cost.peak_bytes for job in jobs)))
        self._begin(run)
        if compute is not None:
            return partial(run, partial(compute, run.options))
        return partial(run, AttentionRun.on(model, plan.inputs(numbers), run.options).everything)


def _joined(jobs: Sequence[AttendJob[Any]]) -> Arrays:
    """Put requests of one batch key together, sequence after sequence."""
    numbers = [job.request.arrays() for job in jobs]
    return {name: np.concatenate([own[name] for own in numbers]) for name in numbers[0]}


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is that, of Python's or ONNX Runtime's."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def to_request_error(error: Exception) -> Exception:
    """Give what the caller is told of an error: in the domain's words, and without its frames.

    These hold the request, and lead to the frame that has the error in its hands: a cycle, which
    would keep the request until Python's collector finds it. Unforeseen errors keep them, for the
    log.
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


def _parts(outputs: AttentionOutputs, jobs: Sequence[AttendJob[Any]]) -> Iterator[AttentionOutputs]:
    """Give each job its share of a batch."""
    output, attn_weights, top_keys, is_fused = outputs
    first = 0
    for job in jobs:
        end = first + job.num_sequences
        yield AttentionOutputs(
            output=None if output is None else output[first:end],
            attn_weights=None if attn_weights is None else attn_weights[first:end],
            top_keys=None if top_keys is None else top_keys[first:end],
            is_fused=is_fused,
        )
        first = end
