"""The inline requests of a stream, which take less time than handing them to a thread.

They run on the event loop, several one after the other. Requests of one message and one template
are run and answered as a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.codec.message_format import STREAMED, TIMEOUT_US
from polyhead_server.codec.response import Response
from polyhead_server.scheduling.job import RequestJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.wire.template import Match
    from polyhead_server.codec.request import StreamedRequests
    from polyhead_server.deadline import Deadline
    from polyhead_server.limits import InlineLimits
    from polyhead_server.planning.prepared_call import PreparedAttention
    from polyhead_server.scheduling.scheduler import Scheduler

__all__ = ["InlineBatcher", "StreamedJob", "find_group"]

_RESPONSE_HEAD_BYTES = 1 << 10
"""Upper bound of a response's size besides its tensors' elements."""


class StreamedJob(RequestJob[Response]):
    """The job of a group of a stream's requests, which is run and answered as one."""

    def __init__(
        self, prepared: PreparedAttention, requests: StreamedRequests, deadline: Deadline
    ) -> None:
        super().__init__(prepared, requests, deadline)
        self.requests = requests
        self.attention = prepared

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all the requests."""
        return self.attention.multiply_adds * self.requests.count

    def with_requests(self, requests: StreamedRequests) -> StreamedJob:
        """Make the job of other requests of the same template."""
        return StreamedJob(self.attention, requests, self.deadline)


def find_group(
    match: Match[PreparedAttention], max_count: int, limits: InlineLimits, message_bytes: int
) -> Match[PreparedAttention]:
    """Extend an inline request by the following ones that can be answered with it.

    They have the same template and timeout, and no request ids. The group fits one turn of the
    event loop and one message. If it needs several runs, they are full.
    """
    prepared = match.value
    is_plain = prepared.batch_key is not None and prepared.plan.plain_run is not None
    if not is_plain or match.payload(STREAMED.request_id):
        return match
    response_bytes = prepared.plan.size.nbytes + _RESPONSE_HEAD_BYTES
    group = match.extended(
        min(
            max_count,
            -(-limits.batch_multiply_adds // max(prepared.multiply_adds, 1)),
            message_bytes // response_bytes,
        )
    )
    count = group.count
    timeouts = group.column(TIMEOUT_US)
    if timeouts.count(timeouts[0]) < count:
        count = next(n for n, timeout in enumerate(timeouts) if timeout != timeouts[0])
    if count > prepared.calls_per_run:
        count -= count % prepared.calls_per_run
    return group.part(0, count)


class InlineBatcher:
    """The waiting inline requests of one stream, oldest first."""

    def __init__(self, scheduler: Scheduler, limits: InlineLimits) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._waiting: dict[bytes, StreamedJob] = {}
        """Jobs by the ids of their requests. A group's job is entered once for each id."""
        self.num_bytes = 0
        """Size of the waiting requests."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, stream_id: bytes) -> bool:
        return stream_id in self._waiting

    def add(self, job: StreamedJob) -> None:
        """Add a job. No other job may have an id of its requests."""
        self._waiting.update(dict.fromkeys(job.requests.ids, job))
        self.num_bytes += job.requests.nbytes

    def cancel(self, stream_id: bytes) -> None:
        """Drop a request. The others of its group keep waiting."""
        job = self._remove(self._waiting[stream_id])
        for requests in job.requests.without(stream_id):
            self.add(job.with_requests(requests))

    def run(self) -> Iterator[tuple[StreamedJob, Response | Exception]]:
        """Run the oldest jobs, as many as fit one turn of the event loop."""
        jobs: list[StreamedJob] = []
        num_requests = multiply_adds = 0
        limits = self._limits
        while (
            self._waiting
            and num_requests < limits.batch_requests
            and multiply_adds < limits.batch_multiply_adds
        ):
            job = self._remove(next(iter(self._waiting.values())))
            jobs.append(job)
            num_requests += job.requests.count
            minimum = limits.min_multiply_adds if job.batch_key is None else 0
            multiply_adds += max(job.multiply_adds, minimum)
        return self._results(jobs)

    def _results(
        self, jobs: list[StreamedJob]
    ) -> Iterator[tuple[StreamedJob, Response | Exception]]:
        results = self._scheduler.run_inline(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception) and job.requests.count > 1:
                # run each by itself, because one invalid request must not fail the others
                yield from self._results([job.with_requests(one) for one in job.requests.split()])
            else:
                yield job, result

    def _remove(self, job: StreamedJob) -> StreamedJob:
        for stream_id in job.requests.ids:
            del self._waiting[stream_id]
        self.num_bytes -= job.requests.nbytes
        return job
