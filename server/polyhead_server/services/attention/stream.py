"""One AttendStream: what comes together is run together, and what is ready goes out together."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.codec.request import StreamedRequest
from polyhead_server.codec.response import streamed_error
from polyhead_server.deadline import Deadline
from polyhead_server.errors import InvalidRequestError, RequestError
from polyhead_server.planning.response_size import check_request_size
from polyhead_server.rpc.handlers import internal_error, log_call
from polyhead_server.rpc.status import status_of
from polyhead_server.services.attention.inline_batcher import TinyRequests
from polyhead_server.services.attention.stream_messages import number_of, read_stream_message
from polyhead_server.services.stream_session import Outbox, held_bytes_limit

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.codec.request import StreamedPlace
    from polyhead_server.codec.response import Reply
    from polyhead_server.planning.plan_cache import Form, Forms
    from polyhead_server.rpc.handlers import CallContext, Connection
    from polyhead_server.scheduling.job import AttendJob
    from polyhead_server.scheduling.scheduler import Scheduler
    from polyhead_server.services.attention.alike_requests import AlikeRequests
    from polyhead_server.services.attention.stream_messages import StreamedRun

    _Job = AttendJob[Reply]
    _Requests = StreamedRequest | AlikeRequests

__all__ = ["RequestStream"]

_MAX_HELD = 1024
"""Most requests of one stream that are held: waiting, running, or as unsent replies."""
_TAKEN_AT_ONCE = 64
"""Requests that are read and checked, a millisecond, before others get a turn."""
_MAX_AGE_S = 300.0
"""Streams end after this time, so that balancers reach servers that came later."""
_TURNS, _MANY_TURNS = 2, 16
"""Turns of the event loop without a further message, a few microseconds each, after which what was
read is run and answered: many if the last answer was to several messages, so that others are likely
on their way, and none for a message of several requests, whose caller gathers them. For 500
messages of one request each, sent at once, 16 turns took 0.6 times the CPU time of 2 (10 tokens of
width 6), and 64 callers of one AsyncClient got 1.1 times the answers; a caller who waits for each
answer would only pay for them."""
_US = 1e-6


class RequestStream:
    """Reads requests, runs them, and writes replies as they are done."""

    def __init__(
        self,
        connection: Connection,
        context: CallContext,
        forms: Forms,
        scheduler: Scheduler,
        *,
        max_request_bytes: int,
        share_bytes: Callable[[], int],
        max_running: int,
    ) -> None:
        """Begin one call.

        ``max_request_bytes``: of each request. ``share_bytes``: what each stream may hold, as
        things are. ``max_running``: most requests, but for tiny ones,
        that wait or run at once.
        """
        self._connection = connection
        self._context = context
        self._forms = forms
        self._scheduler = scheduler
        self._max_request_bytes = max_request_bytes
        self._share_bytes = share_bytes
        self._max_running = max_running
        self._tiny = TinyRequests(scheduler)
        self._running: dict[bytes, asyncio.Task[None]] = {}
        """Requests that are not tiny and still wanted, by their ids."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Of these requests, and of those that were cancelled and have not yet ended."""
        self._outbox = Outbox(connection)
        self._held_bytes = 0
        """Of what is in `_tasks`, as far as it is foreseen."""
        self._num_messages = 0
        """That were read."""
        self._has_work = asyncio.Event()
        self._has_room = asyncio.Event()
        self._awaits_message = True
        self._is_ending = False
        """Whether no further message is to be read."""
        self._is_complete = False
        """Whether no further reply will come but to what is in `_tiny`."""

    async def serve(self, draining: asyncio.Event) -> None:
        """Serve until the caller has no more requests, or this server wants the stream renewed.

        Then everything that was read is answered. Raises InvalidRequestError for a message that is
        none.
        """
        reading = asyncio.create_task(self._read())
        answering = asyncio.create_task(self._answer())
        renewed = asyncio.create_task(draining.wait())
        try:
            await asyncio.wait(
                (reading, answering, renewed),
                timeout=_MAX_AGE_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            # a message that has been begun is read to its end, if its replies are taken
            self._is_ending = True
            if not (self._awaits_message or reading.done()):
                await asyncio.wait((reading, answering), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                reading.cancel()
                await asyncio.wait((reading,))
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._is_complete = True
            self._has_work.set()
            await answering
            if not reading.cancelled():
                reading.result()
        finally:
            for task in (reading, answering, renewed, *self._tasks):
                task.cancel()
            del reading, answering, task  # what they raise leads here: a cycle

    async def _read(self) -> None:
        while not self._is_ending:
            self._awaits_message = True
            message = await self._connection.read()
            self._awaits_message = False
            if message is None:
                return
            self._num_messages += 1
            await self._take(message)
            del message  # which may be large, and is not to wait here for the next
            await self._room()

    async def _room(self) -> None:
        """Wait until no more than enough is held."""
        while (
            len(self._tiny) + len(self._tasks) + len(self._outbox) >= _MAX_HELD
            or len(self._tasks) >= self._max_running
            or self._holds_too_much()
        ):
            self._has_room.clear()
            await self._has_room.wait()

    def _holds_too_much(self) -> bool:
        held_bytes = self._held_bytes + self._tiny.num_bytes + self._outbox.num_bytes
        return held_bytes > held_bytes_limit(self._share_bytes())

    async def _take(self, message: bytes) -> None:
        """Note a message's tiny requests, and begin to run the others."""
        read = read_stream_message(message)
        for stream_id in read.cancelled:
            self._cancel(stream_id)
        if read.num_awaited:
            self._note_awaited(read.num_awaited, len(self._tasks) + read.num_requests)
        num_taken = 0
        for run in read.runs:
            index = 0
            while index < len(run.ids):
                count = self._take_next(run, index, read.data)
                index += count
                num_taken += count
                if num_taken >= _TAKEN_AT_ONCE or len(self._tasks) >= self._max_running:
                    num_taken = 0
                    self._has_work.set()
                    await asyncio.sleep(0)
                    await self._room()
        self._has_work.set()

    def _note_awaited(self, num_awaited: int, num_others: int) -> None:
        """Let half be answered first if the caller awaits little else than what is here.

        Of all else the replies are on their way to him: he has something to do. ``num_others``:
        how many requests are here beside the tiny ones that wait.
        """
        num_here = len(self._tiny) + num_others
        self._tiny.is_halving = num_awaited - num_here < num_here // 2

    def _take_next(self, run: StreamedRun, index: int, data: bytes) -> int:
        """Take the next request of a run, with those that are alike; give how many these are."""
        place = run.place(index)
        made = self._make_job(place, data)
        if made is None:
            return 1
        request, job = made
        if job.runs_inline:
            return self._tiny.add(request, job, run, index, self._running.keys())
        foreseen = request.size + job.plan.size.nbytes
        self._held_bytes += foreseen
        task = self._running[place.id] = asyncio.create_task(self._run(request, job))
        self._tasks.add(task)
        # not by the task itself, which may be cancelled before it begins
        task.add_done_callback(partial(self._let_go, place.id, foreseen))
        return 1

    def _cancel(self, stream_id: bytes) -> None:
        if stream_id in self._running:
            self._running.pop(stream_id).cancel()
        elif stream_id in self._tiny:
            self._tiny.cancel(stream_id)

    def _let_go(self, stream_id: bytes, held_bytes: int, task: asyncio.Task[None]) -> None:
        """Note that a request runs no more."""
        self._tasks.remove(task)
        if self._running.get(stream_id) is task:
            del self._running[stream_id]
        self._held_bytes -= held_bytes
        self._has_room.set()

    async def _answer(self) -> None:
        """Run tiny requests and send what is done; what comes meanwhile goes the same way next."""
        num_answered, is_crowded = 0, False
        while True:
            await self._has_work.wait()
            if is_crowded:
                await self._pause(_MANY_TURNS)
            elif len(self._tiny) <= self._num_messages - num_answered:
                await self._pause(_TURNS)
            is_crowded = self._num_messages - num_answered > 1
            num_answered = self._num_messages
            self._has_work.clear()
            self._run_tiny()
            if self._outbox:
                await (self._send_and_run() if self._tiny else self._outbox.send())
                self._has_room.set()
            if self._tiny or self._outbox:
                self._has_work.set()
            elif self._is_complete:
                return

    async def _send_and_run(self) -> None:
        """Send a message, and run more while it is on its way."""
        sending = asyncio.create_task(self._outbox.send())
        try:
            await asyncio.sleep(0)  # it begins
            self._run_tiny()
            await sending
        finally:
            sending.cancel()

    async def _pause(self, turns: int) -> None:
        """Wait until no message has come for so many turns, or enough have."""
        idle = 0
        while idle < turns and len(self._tiny) < _TAKEN_AT_ONCE and not self._is_complete:
            num_messages = self._num_messages
            await asyncio.sleep(0)
            idle = idle + 1 if self._num_messages == num_messages else 0

    def _make_job(self, place: StreamedPlace, data: bytes) -> tuple[StreamedRequest, _Job] | None:
        """Read and check a request; None: it has been refused."""
        request = None
        try:
            check_request_size(place.end - place.start, self._max_request_bytes)
            deadline = self._deadline(place)
            request = StreamedRequest(place, data)
            form: Form = self._forms.of(request)
        except RequestError as error:
            self._refuse(place.id, error, request)
            return None
        except Exception as error:  # noqa: BLE001 - the others go on
            self._refuse(place.id, internal_error(self._context.name, error), request)
            return None
        return request, form.job(request, deadline)

    def _deadline(self, place: StreamedPlace) -> Deadline:
        if place.id in self._running or place.id in self._tiny:
            raise InvalidRequestError(
                "id",
                f"expected one that no request awaits a reply to; got {number_of(place.id)}",
                "DUPLICATE",
            )
        if not place.timeout_us:
            return self._context.deadline
        if place.timeout_us >= 1 << 63:
            raise InvalidRequestError(
                "timeout_us", "expected microseconds above 0, or 0 for none", "OUT_OF_RANGE"
            )
        return Deadline.after(place.timeout_us * _US)

    def _run_tiny(self) -> None:
        """Run those that were first, here and now: some milliseconds at most."""
        # what waits to be sent is more than what waits to be run, and bounded before it
        if not (self._outbox and self._holds_too_much()):
            for (request, job), result in self._tiny.run():
                self._finish(request, result, job.arrived)

    async def _run(self, request: StreamedRequest, job: _Job) -> None:
        """Run a request in its turn."""
        started = time.monotonic()
        result: Reply | Exception
        try:
            with self._scheduler.reserve_bytes(request.size):
                result = await job.deadline.ends(self._scheduler.run(job))
        except asyncio.CancelledError as error:
            log_call(self._context.name, started, request, error)
            raise
        except Exception as error:  # noqa: BLE001 - becomes the reply
            result = error
        self._finish(request, result, started)
        self._has_work.set()
        del result  # an error's traceback leads here: a cycle

    def _finish(self, requests: _Requests, result: Reply | Exception, started: float) -> None:
        if isinstance(result, Exception):
            if not isinstance(result, RequestError):
                result = internal_error(self._context.name, result)
            self._refuse(requests.ids[0], result, requests, started)
        else:
            log_call(self._context.name, started, requests, None, times=len(requests.ids))
            self._outbox.add(result)

    def _refuse(
        self,
        stream_id: bytes,
        error: RequestError,
        request: _Requests | None,
        started: float | None = None,
    ) -> None:
        log_call(self._context.name, started or time.monotonic(), request, error)
        self._outbox.add(streamed_error(stream_id, status_of(error)))
