"""The job of a request to a whole model. It runs in slices, between which other calls may run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from polyhead_server.call import RunTimes, Timing
from polyhead_server.engine.runs.cancellable import CancellableRun, RunCancelledError
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.planning.forward.plan import plan_forward
from polyhead_server.scheduling.job import Job, to_request_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyhead_server.call import ExecutionInfo
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.whole_model import WholeModel
    from polyhead_server.forward_call import ForwardCall, ForwardOutputs
    from polyhead_server.origin import Origin
    from polyhead_server.planning.forward.plan import ForwardPlan
    from polyhead_server.scheduling.job import RunnableBatch
    from polyhead_server.scheduling.memory_budget import Reservation
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.settings import ServerSettings

__all__ = ["ForwardJob", "WholeRequest", "run_forward"]

_SLICE_S = 0.02
"""A slice ends with the first step after so many seconds. Going back to the queue takes 0.1 ms."""
_MAX_NEW_BYTES = 1 << 20
"""A slice also ends if planning has taken more memory than this, which is reserved before planning
goes on."""


class WholeRequest(Protocol):
    """A request to a whole model, of any protocol. The methods' time grows with the size."""

    times: RunTimes | None
    """The times of the run; None before."""

    def read(self) -> ForwardCall:
        """Return the call that the request describes. Raises InvalidRequestError."""

    def respond(
        self,
        call: ForwardCall,
        executed_by: ExecutionInfo,
        outputs: ForwardOutputs,
        timing: Timing,
    ) -> bytes:
        """Write the response.

        ``call``: the call that was read, with the full name of each requested layer.
        """


async def run_forward(
    job: ForwardJob, scheduler: Scheduler, reservation: Reservation, origin: Origin
) -> bytes:
    """Run a caller's job until it has a response. ``origin``: as for Scheduler.run.

    ``reservation``: the memory of the request; it grows by that of the plan and the response.
    """
    while job.plan is None:
        await scheduler.run(job, origin)
        reservation.grow(job.take_new_bytes())
    reservation.grow(job.plan.response_bytes)
    while (response := await scheduler.run(job, origin)) is None:
        pass
    return response


class ForwardJob(Job["bytes | None"]):
    """The job of a request to a whole model. It is run again until it returns a response.

    The first slices only read and plan. Then ``plan`` has the size of the response, and the slices
    are short or long ones: a layer's attention to 20,000 tokens takes seconds.
    """

    def __init__(
        self,
        model: WholeModel,
        request: WholeRequest,
        settings: ServerSettings,
        deadline: Deadline,
    ) -> None:
        super().__init__(deadline, runs_inline=False)
        self._model = model
        self._request = request
        self._settings = settings
        self._run = CancellableRun(model.run_options())
        self._steps = self._all_steps()
        self._queue_s = self._compute_s = 0.0
        self._new_bytes = 0
        self.plan: ForwardPlan | None = None

    def take_new_bytes(self) -> int:
        """Return the memory that planning has taken since the last call of this method."""
        num_bytes, self._new_bytes = self._new_bytes, 0
        return num_bytes

    def make_batch(self, _: Sequence[Job[bytes | None]]) -> RunnableBatch[bytes | None]:
        """Return the batch of the next slice: the job itself, which runs alone."""
        return self

    def cancel_one(self) -> None:
        """End the run at the next node of its graph."""
        self._run.cancel()

    def run(self) -> list[bytes | Exception | None]:
        """Read and plan, or compute, for a slice of time. The result is None until the end."""
        started, is_planned = time.monotonic(), self.plan is not None
        self._queue_s += started - self.arrived
        try:
            is_done = self._run(lambda: self._advance(started + _SLICE_S))
        except Exception as error:  # noqa: BLE001 - becomes the request's status
            self._model.statistics.add_failure(self._queue_s + self._compute_s)
            return [to_request_error(error)]
        ended = time.monotonic()
        self._compute_s += (ended - started) * is_planned
        times = self._request.times or RunTimes(self.arrived, started, ended)
        self._request.times = times.until(ended)
        return [self._respond(ended) if is_done else None]

    def _advance(self, until: float) -> bool:
        """Take steps until a time; return whether all steps are done."""
        is_planned = self.plan is not None
        for new_bytes in self._steps:
            self._new_bytes += new_bytes
            if self._run.options.terminate:
                raise RunCancelledError
            # stop when the plan is made, because its memory is reserved before a layer runs
            if (
                time.monotonic() > until
                or self._new_bytes > _MAX_NEW_BYTES
                or is_planned != (self.plan is not None)
            ):
                return False
        return True

    def _all_steps(self) -> Iterator[int]:
        """Read, plan and compute step by step. Each step yields the memory that planning took."""
        call = self._request.read()
        self.plan = yield from plan_forward(call, self._model, self._settings)
        self.plan.run.options = self._run.options
        self.is_short = self.plan.has_short_steps
        yield 0
        for _ in self.plan.run.steps():
            yield 0

    def _respond(self, ended: float) -> bytes:
        assert self.plan is not None
        outputs, batch_size = self.plan.run.outputs, len(self.plan.run.plans[0].lengths)
        timing = Timing(self._queue_s * 1e3, self._compute_s * 1e3, batch_size)
        executed_by = self._model.execution_info
        response = self._request.respond(self.plan.call, executed_by, outputs, timing)
        times = RunTimestamps(
            ended - self._compute_s, ended - self._compute_s, ended, time.monotonic()
        )
        timings = [RequestTiming(batch_size, self._queue_s, num_tokens=self.plan.num_tokens)]
        self._model.statistics.add(batch_size, times, timings)
        return response
