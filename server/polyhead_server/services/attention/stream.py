"""Serves one AttendStream: requests that arrive together run together, responses share messages."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from polyhead.wire.protobuf import canonical_varint, read_varint
from polyhead_server.codec.message_format import STREAM_ID, TIMEOUT_US
from polyhead_server.codec.parse_limits import check_request_size
from polyhead_server.codec.request import StreamedRequests
from polyhead_server.codec.response import streamed_error
from polyhead_server.deadline import Deadline
from polyhead_server.errors import InvalidRequestError, RequestError
from polyhead_server.rpc.status import status_of
from polyhead_server.services.attention.coalescer import Coalescer
from polyhead_server.services.attention.inline_batcher import InlineBatcher, StreamedJob, find_group
from polyhead_server.services.attention.refusals import RefusedRequests
from polyhead_server.services.attention.stream_messages import (
    read_request_frame,
    read_stream_message,
)
from polyhead_server.services.stream_session import SendBuffer, StreamSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from polyhead.wire.template import Match
    from polyhead_server.codec.response import Response
    from polyhead_server.planning.plan_cache import PlanCache
    from polyhead_server.planning.prepared_call import PreparedAttention
    from polyhead_server.rpc.call_context import CallContext, Releasable
    from polyhead_server.rpc.handlers import Connection
    from polyhead_server.scheduling.memory_budget import Reservation
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.services.attention.refusals import RefusalPace
    from polyhead_server.services.attention.stream_messages import StreamMessage
    from polyhead_server.settings import ServerSettings

__all__ = ["RequestStream"]

_US = 1e-6
_PREPARE_COST = 15
"""Preparing the first request of a template takes the time of so many other requests."""


class RequestStream(StreamSession):
    """Reads requests, runs them, and writes each response when its run has ended.

    Inline requests wait in the inline batcher, and the write loop runs them. Each other request has
    a task, which waits in the scheduler.
    """

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        plans: PlanCache[PreparedAttention],
        scheduler: Scheduler,
        settings: ServerSettings,
        *,
        share_bytes: Callable[[], int],
        pace: RefusalPace,
    ) -> None:
        """``share_bytes``: returns the bytes that this stream may hold now."""
        limits = settings.stream_limits
        super().__init__(connection, context, limits, share_bytes, limits.max_age_s)
        self._plans = plans
        self._pace = pace
        self._scheduler = scheduler
        self._max_request_bytes = settings.max_request_bytes
        self._max_running = max(1, settings.max_queue_size // 2)
        """Most requests, besides inline ones, that wait or run at once."""
        self._inline_limits = settings.inline_limits
        self._inline = InlineBatcher(scheduler, settings.inline_limits)
        self._running: dict[bytes, asyncio.Task[None]] = {}
        """Tasks of the requests that do not run inline, by id, without cancelled ones."""
        self._tasks: set[asyncio.Task[None]] = set()
        """The same tasks, and those of cancelled requests that have not ended yet."""
        self._buffer = SendBuffer(limits.message_bytes)
        self._refused = RefusedRequests()
        """Those of the last message."""
        self._running_bytes = 0
        """Estimate of the memory of the requests in `_tasks` and of their responses."""
        self._is_complete = False
        """Whether all requests are answered except the waiting inline ones."""

    # ---------------------------------------------------------------- reading

    async def accept(self, message: bytes) -> None:
        """Add a message's inline requests to the batcher, and start tasks for the others."""
        requests = read_stream_message(message)
        for stream_id in requests.cancelled_ids:
            self._cancel(stream_id)
        self._refused = RefusedRequests()
        with self._scheduler.reserve_bytes(0, self.context.origin) as held:
            await self._accept_all(requests, held)
        self._refused.log(self.context, self.connection.observer)
        self.has_work.set()

    async def wait_for_capacity(self) -> None:
        """Wait until the session is not full, and as long as its refused requests delay it."""
        await self._refused.keep(self._pace, self.context.origin.peer)
        await super().wait_for_capacity()

    async def _accept_all(self, requests: StreamMessage, held: Reservation) -> None:
        """Accept or refuse the requests of a message.

        ``held``: grows by a long message that waits, because its first requests wait or because
        their responses are not read. Raises OverloadedError.
        """
        index = cost = 0
        while index < len(requests.frames):
            num_prepared = self._plans.num_prepared
            count = self._accept_group(requests, index)
            index += count
            cost += count + _PREPARE_COST * (self._plans.num_prepared - num_prepared)
            # let other tasks run, and wait while the stream is full
            is_turn_over = cost >= self.limits.requests_per_turn
            if is_turn_over or len(self._tasks) >= self._max_running:
                cost = 0
                self.has_work.set()
                if not held.size and len(requests.data) > self.limits.min_bytes:
                    held.grow(len(requests.data))
                await asyncio.sleep(0)
                await self.wait_for_capacity()

    def _accept_group(self, requests: StreamMessage, index: int) -> int:
        """Accept or refuse a request and those grouped with it. Return their number."""
        start, end = requests.frames[index]
        log_fields: dict[str, object] = {}
        try:
            if end - start > self._max_request_bytes:
                call_start, call_end = read_request_frame(requests.data, start, end).call
                check_request_size(call_end - call_start, self._max_request_bytes)
            match = self._plans.match(requests.data, start, end, log_fields=log_fields)
            stream_id = canonical_varint(match.payload(STREAM_ID))
            deadline = self._deadline(match.payload(TIMEOUT_US))
            self._check_id(stream_id)
            if match.value.runs_inline:
                max_count = len(requests.frames) - index
                return self._accept_inline(match, stream_id, deadline, max_count)
            self._start(match, stream_id, deadline)
        except Exception as error:  # noqa: BLE001 - the other requests go on
            if not isinstance(error, RequestError):
                error = self.connection.observer.log.unexpected(self.context.name, error)
            stream_id = read_request_frame(requests.data, start, end).id  # raises if malformed
            self._refused.add(error, log_fields)
            self._buffer.add(streamed_error(stream_id, status_of(error)))
        return 1

    def _accept_inline(
        self, match: Match[PreparedAttention], stream_id: bytes, deadline: Deadline, max_count: int
    ) -> int:
        prepared, ids = match.value, [stream_id]
        max_count = min(max_count, self.limits.requests_per_turn)
        group = find_group(match, max_count, self._inline_limits, self.limits.message_bytes)
        if group.count > 1:
            group_ids = group.column(STREAM_ID)
            if len(set(group_ids)) == group.count and not any(map(self._is_in_use, group_ids)):
                match, ids = group, group_ids
        requests = StreamedRequests(match, prepared.call, ids)
        self._inline.add(StreamedJob(prepared, requests, deadline))
        return requests.count

    def _start(self, match: Match[PreparedAttention], stream_id: bytes, deadline: Deadline) -> None:
        """Start the task of a request, which waits for its turn."""
        prepared = match.value
        requests = StreamedRequests(match, prepared.call, [stream_id])
        job = StreamedJob(prepared, requests, deadline)
        num_bytes = requests.nbytes + prepared.plan.size.nbytes
        self._running_bytes += num_bytes
        task = self._running[stream_id] = asyncio.create_task(self._run(job))
        self._tasks.add(task)
        # not in the task itself, because it may be cancelled before it begins
        task.add_done_callback(partial(self._release, stream_id, num_bytes))

    def _deadline(self, timeout_us: bytes) -> Deadline:
        value = read_varint(timeout_us)[0] if timeout_us else 0
        if value >= 1 << 63:
            raise InvalidRequestError(
                "timeout_us", "expected microseconds above 0, or 0 for none", "OUT_OF_RANGE"
            )
        return Deadline.after(value * _US) if value else self.context.deadline

    def _is_in_use(self, stream_id: bytes) -> bool:
        return stream_id in self._running or stream_id in self._inline

    def _check_id(self, stream_id: bytes) -> None:
        if self._is_in_use(stream_id):
            raise InvalidRequestError(
                "id",
                f"expected an id without an unanswered request; got {read_varint(stream_id)[0]}",
                "DUPLICATE",
            )

    def _cancel(self, stream_id: bytes) -> None:
        if stream_id in self._running:
            self._running.pop(stream_id).cancel()
        elif stream_id in self._inline:
            self._inline.cancel(stream_id)

    # ---------------------------------------------------------------- capacity

    def is_full(self) -> bool:
        """Whether the stream must answer requests before it reads more."""
        num_requests = len(self._inline) + len(self._tasks) + len(self._buffer)
        return (
            num_requests >= self.limits.max_requests
            or len(self._tasks) >= self._max_running
            or self._holds_too_much()
        )

    def _holds_too_much(self) -> bool:
        num_bytes = self._running_bytes + self._inline.num_bytes + self._buffer.num_bytes
        return num_bytes > self.max_held_bytes()

    def _release(self, stream_id: bytes, num_bytes: int, task: asyncio.Task[None]) -> None:
        """Remove a request's task, which has ended."""
        self._tasks.remove(task)
        if self._running.get(stream_id) is task:
            del self._running[stream_id]
        self._running_bytes -= num_bytes
        self.has_capacity.set()

    # ---------------------------------------------------------------- running and writing

    async def write_loop(self) -> None:
        """Run inline requests and send responses, until the stream is complete."""
        coalescer = Coalescer()
        while True:
            await self.has_work.wait()
            await coalescer.wait(
                lambda: self.num_messages,
                len(self._inline),
                lambda: len(self._inline) >= self.limits.requests_per_turn or self._is_complete,
            )
            self.has_work.clear()
            self._run_inline()
            if self._buffer:
                await (self._send_and_run() if self._inline else self._send())
                self.has_capacity.set()
            if self._inline or self._buffer:
                self.has_work.set()
            elif self._is_complete:
                return

    async def _send(self) -> None:
        message, reservations = self._buffer.next_message()
        await self.connection.write(message)
        for reservation in reservations:
            self.context.release_now(reservation)

    async def _send_and_run(self) -> None:
        """Send a message, and run more requests while it is sent."""
        sending = asyncio.create_task(self._send())
        try:
            await asyncio.sleep(0)  # the task begins
            self._run_inline()
            await sending
        finally:
            sending.cancel()

    def _run_inline(self) -> None:
        """Run the oldest inline requests, for some milliseconds at most."""
        # responses take more memory than requests, so none are added while too much is buffered
        if not (self._buffer and self._holds_too_much()):
            for job, result in self._inline.run():
                self._finish_job(job, result, job.arrived)

    async def _run(self, job: StreamedJob) -> None:
        """Run a request in its turn."""
        started = time.monotonic()
        result: Response | Exception
        reservation = None
        try:
            num_bytes = job.requests.nbytes + job.attention.response_bytes
            reservation = self._scheduler.reserve_bytes(num_bytes, self.context.origin)
            self.context.release_at_end(reservation)
            running = self._scheduler.run(job, self.context.origin)
            result = await job.deadline.ends(running)
        except asyncio.CancelledError as error:
            self.connection.observer.request_ended(self.context, started, job.requests, error)
            if reservation is not None:
                self.context.release_now(reservation)
            raise
        except Exception as error:  # noqa: BLE001 - becomes the response
            result = error
        self._finish_job(job, result, started, reservation)
        self.has_work.set()
        del result  # an error's traceback refers to this frame: a cycle

    def _finish_job(
        self,
        job: StreamedJob,
        result: Response | Exception,
        started: float,
        reservation: Releasable | None = None,
    ) -> None:
        context, requests, observer = self.context, job.requests, self.connection.observer
        if not isinstance(result, Exception):
            observer.request_ended(context, started, requests, None, times=requests.count)
            self._buffer.add(result, reservation)
            return
        if not isinstance(result, RequestError):
            result = observer.log.unexpected(context.name, result)
        observer.request_ended(context, started, requests, result)
        self._buffer.add(streamed_error(requests.ids[0], status_of(result)), reservation)

    # ---------------------------------------------------------------- ending

    async def finish(self) -> None:
        """Wait for the running requests, and let the write loop end when all is sent."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._is_complete = True
        self.has_work.set()

    def tasks(self) -> Iterable[asyncio.Task[None]]:
        """Return the tasks of the requests that are not answered."""
        return self._tasks
