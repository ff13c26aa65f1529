"""The job of an AttendRows request. The scheduler runs each block of query rows by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from polyhead_server.call import RunTimes, Timing
from polyhead_server.engine.runs.cancellable import RowBlockRun, RunCancelledError
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.errors import prefix_field_path
from polyhead_server.scheduling.job import Job, to_request_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyhead_server.codec.request import AttendRowsRequest
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine.model import Model
    from polyhead_server.planning.plan import RowsPlan
    from polyhead_server.scheduling.job import RunnableBatch

__all__ = ["RowsJob"]


class RowsJob(Job[bytes]):
    """Computes the next block of rows of a request. It is run once for each block."""

    def __init__(
        self, model: Model, plan: RowsPlan, request: AttendRowsRequest, deadline: Deadline
    ) -> None:
        super().__init__(deadline, runs_inline=plan.call_plan.cost.runs_inline)
        self.is_short = plan.multiply_adds_of_block <= model.batching.max_short_multiply_adds
        self._model = model
        self._plan = plan
        self._request = request
        self._rows: RowBlockRun | None = None
        self._is_cancelled = False

    @property
    def has_more(self) -> bool:
        """Whether there is another block."""
        return self._rows is None or self._rows.has_more

    def make_batch(self, _: Sequence[Job[bytes]]) -> RunnableBatch[bytes]:
        """Return the batch of one block: the job itself, which runs alone."""
        return self

    def cancel_one(self) -> None:
        """End the run; no more blocks are computed."""
        self._is_cancelled = True
        if self._rows:
            self._rows.cancel()

    def run(self) -> list[bytes | Exception]:
        """Compute the next block. The first one also reads the arrays."""
        started = begun = time.monotonic()
        statistics = self._model.statistics
        try:
            if self._rows is None:
                self._rows = self._begin()
                begun = time.monotonic()
            first_row, outputs = self._rows.next_block()
        except Exception as error:  # noqa: BLE001 - becomes the request's status
            statistics.add_failure(time.monotonic() - self.arrived)
            return [to_request_error(error)]
        ended = time.monotonic()
        earlier = self._request.times
        # the request's tokens are counted once, with its first block
        num_tokens = 0 if earlier else self._plan.call_plan.num_tokens
        self._request.times = (earlier or RunTimes(self.arrived, started, ended)).until(ended)
        batch_size = self._plan.call_plan.call.batch_size
        timing = Timing((started - self.arrived) * 1e3, (ended - started) * 1e3, batch_size)
        executed_by = self._model.execution_info
        response = self._request.respond(executed_by, first_row, outputs, timing)
        times = RunTimestamps(started, begun, ended, time.monotonic())
        request_timing = RequestTiming(batch_size, started - self.arrived, num_tokens=num_tokens)
        statistics.add(batch_size, times, [request_timing])
        return [response]

    def _begin(self) -> RowBlockRun:
        call_plan, arrays = self._plan.call_plan, self._request.arrays()
        with prefix_field_path("call"):
            inputs = call_plan.inputs(arrays)
        peak_bytes = call_plan.cost.peak_bytes
        rows = self._rows = RowBlockRun(self._model, inputs, self._plan.rows_per_block, peak_bytes)
        if self._is_cancelled:  # before there was a run to cancel
            raise RunCancelledError
        return rows
