"""AttendStream for AsyncClient. The requests of many tasks share one stream."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

import grpc
import grpc.aio

from polyhead._rpc_errors import deadline_exceeded
from polyhead._stream.messages import PendingRequest
from polyhead._stream.outcomes import take_result
from polyhead._stream.pending_requests import PendingRequests, is_unexplained
from polyhead.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead._calls.request import PreparedCall
    from polyhead._stream.messages import Outcome
    from polyhead.results import AttentionResult

    _Call: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


class AwaitableRequest(PendingRequest):
    """A request whose result a task awaits."""

    __slots__ = ("future", "stream")

    future: asyncio.Future[list[Outcome]]
    stream: AsyncStream

    async def result(self) -> AttentionResult:
        """Await the result. If the task is cancelled meanwhile, the request is abandoned.

        Raises what a unary call raises.
        """
        try:
            return take_result(await self.future)
        except asyncio.CancelledError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Give the request up. It is not sent, or if it was sent, it is cancelled on the server."""
        self.stream.abandon(self)

    def resolve(self, outcome: Outcome) -> None:
        """Hand the outcome to the task that awaits the future."""
        if not self.future.done():  # it is done if the task was cancelled and has not run since
            self.future.set_result([outcome])


class AsyncStream:
    """Sends the requests of one event loop over one AttendStream at a time.

    A stream is opened for the first request, and another one if it ends before all requests are
    answered. A message carries all requests that are ready when the previous message has been
    written, so no request waits for a timer.
    """

    def __init__(
        self,
        open_call: Callable[[], _Call],
        target: str,
        loop: asyncio.AbstractEventLoop,
        is_connected: Callable[[], bool] = lambda: True,
    ) -> None:
        """``is_connected``: whether the channel has a connection."""
        self._open_call = open_call
        self._is_connected = is_connected
        self._target = target
        self._loop = loop
        self._ids = count(1)
        self._pending = PendingRequests(target)
        self._work_available = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._write_after_s = 0.0
        # One timer, for the earliest deadline, because most requests are answered long before.
        self._next_check = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a request and await its result. Raises PolyheadError."""
        return await self.submit(call, timeout_s).result()

    def submit(self, call: PreparedCall, timeout_s: float) -> AwaitableRequest:
        """Send a request as soon as possible. The caller must then call result or abandon."""
        request = AwaitableRequest(next(self._ids), call, timeout_s)
        request.future, request.stream = self._loop.create_future(), self
        self._pending.add(request)
        if request.deadline < self._next_check:
            self._check_at(request.deadline)
        self._work_available.set()
        if self._running is None:
            self._running = self._loop.create_task(self._run())
        return request

    def abandon(self, request: AwaitableRequest) -> None:
        """Give a request up; see AwaitableRequest.abandon."""
        self._pending.abandon(request)
        self._work_available.set()
        request.future.cancel()

    async def close(self) -> None:
        """End the stream; requests under way end with RequestCancelledError."""
        self._pending.cancel()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def stop(self) -> None:
        """End the stream soon, from any thread. No request may be awaited any more."""
        running = self._running
        if running is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(running.cancel)

    def _check_at(self, deadline: float) -> None:
        """Set the timer so that it calls _check_deadlines at this deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_check = deadline
        self._timer = self._loop.call_later(deadline - time.monotonic(), self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._next_check, self._timer = math.inf, None
        now = time.monotonic()
        for request in list(self._pending.unanswered.values()):
            if request.deadline <= now:
                self._pending.abandon(request)
                self._work_available.set()
                late = deadline_exceeded(self._target, request.timeout_s, self._is_connected)
                request.resolve(late)
        if unanswered := self._pending.unanswered.values():
            self._check_at(min(request.deadline for request in unanswered))

    async def _run(self) -> None:
        """Open streams as long as there are unanswered requests."""
        try:
            while self._pending.unanswered:
                pause = await self._run_once()
                await asyncio.sleep(pause)
        finally:
            self._running = None
            self._pending.cancel()  # requests remain if this task was cancelled
            if self._timer is not None:
                self._timer.cancel()
                self._next_check, self._timer = math.inf, None

    async def _run_once(self) -> float:
        """Open a stream and serve it until it ends; return the seconds to wait before the next."""
        call = self._open_call()
        self._work_available.set()  # requests that the previous stream did not answer
        writing = self._loop.create_task(self._write(call, self._write_after_s))
        self._write_after_s = 0.0
        try:
            while isinstance(data := await call.read(), bytes):  # and not EOF
                self._pending.dispatch(data)
                if self._pending.sends_one_at_a_time:
                    self._work_available.set()  # the next request may be written
                del data  # may be large, and would be held until the next message
        except (grpc.RpcError, ServerError) as error:
            if is_unexplained(
                error
            ):  # wait, because the next stream may end before it is written to
                self._write_after_s = 0.1
            return self._pending.end(error)
        finally:
            call.cancel()
            writing.cancel()
            await asyncio.wait([writing])
        return self._pending.end(None)

    async def _write(self, call: _Call, after_s: float) -> None:
        try:
            await asyncio.sleep(after_s)
            while True:
                await self._work_available.wait()
                self._work_available.clear()
                while message := self._pending.take_message():
                    await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the stream has ended: reading from it raises the reason
