"""Requests of many tasks over one AttendStream: the asynchronous client's end of it."""

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
from polyhead._stream.messages import Outcome, PendingRequest
from polyhead._stream.pending_requests import PendingRequests, is_unexplained
from polyhead.errors import PolyheadError, ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead._calls.request import PreparedCall
    from polyhead.results import AttentionResult

    _Call: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]

__all__ = ["AsyncStream", "AwaitableRequest"]


class AwaitableRequest(PendingRequest):
    """A request whose result is awaited, or which is forgotten."""

    __slots__ = ("future", "stream")

    future: asyncio.Future[AttentionResult]
    stream: AsyncStream

    async def result(self) -> AttentionResult:
        """Await the result. Who is cancelled here gives the request up.

        Raises what a unary call raises.
        """
        try:
            return await self.future
        except asyncio.CancelledError:
            self.abandon()
            raise
        finally:
            del self.future  # or an error's traceback would lead to the error itself, in a cycle

    def abandon(self) -> None:
        """Give the request up: it is not sent, or if it has been, the server is told."""
        self.stream.abandon(self)

    def resolve(self, outcome: Outcome) -> None:
        """Give the outcome to whoever awaits the future."""
        if self.future.done():  # its task was cancelled, and has not run since
            return
        if isinstance(outcome, PolyheadError):
            self.future.set_exception(outcome)
            self.future.exception()  # asyncio need not tell of it: nobody awaits what was given up
        else:
            self.future.set_result(outcome)


class AsyncStream:
    """One AttendStream at a time, for requests of one event loop.

    It is opened for the first request, and again when it has ended before all were answered. A
    message carries what is ready when the one before has been written: nothing waits for company.
    """

    def __init__(
        self, open_call: Callable[[], _Call], target: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._open_call = open_call
        self._target = target
        self._loop = loop
        self._ids = count(1)
        self._pending = PendingRequests(target)
        self._news = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._write_after_s = 0.0
        # One timer for all, as most requests are answered long before: none is late for it.
        self._next_check = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, call: PreparedCall, timeout_s: float) -> AttentionResult:
        """Send a request and await its result. Raises PolyheadError."""
        return await self.submit(call, timeout_s).result()

    def submit(self, call: PreparedCall, timeout_s: float) -> AwaitableRequest:
        """Send a request as soon as possible. Who does not await its result must abandon it."""
        awaited = AwaitableRequest(next(self._ids), call, timeout_s)
        awaited.future, awaited.stream = self._loop.create_future(), self
        self._pending.add(awaited)
        if awaited.deadline < self._next_check:
            self._check_at(awaited.deadline)
        self._news.set()
        if self._running is None:
            self._running = self._loop.create_task(self._run())
        return awaited

    def abandon(self, call: AwaitableRequest) -> None:
        """Give a request up, as the request itself puts it."""
        self._pending.abandon(call)
        self._news.set()
        call.future.cancel()

    async def close(self) -> None:
        """End the stream; requests under way end with RequestCancelledError."""
        self._pending.cancel()
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    def stop(self) -> None:
        """End the stream soon, from any thread: nobody awaits anything."""
        running = self._running
        if running is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(running.cancel)

    def _check_at(self, deadline: float) -> None:
        """Look for requests whose time is up at this one's deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._next_check = deadline
        self._timer = self._loop.call_later(deadline - time.monotonic(), self._check_deadlines)

    def _check_deadlines(self) -> None:
        self._next_check, self._timer = math.inf, None
        now = time.monotonic()
        for call in [call for call in self._pending.unanswered.values() if call.deadline <= now]:
            self._pending.abandon(call)
            self._news.set()
            call.resolve(deadline_exceeded(self._target, call.timeout_s))
        if self._pending.unanswered:
            self._check_at(min(call.deadline for call in self._pending.unanswered.values()))

    async def _run(self) -> None:
        """Open streams as long as there is anything to be answered."""
        try:
            while self._pending.unanswered:
                pause = await self._run_once()
                await asyncio.sleep(pause)
        finally:
            self._running = None
            self._pending.cancel()  # what is left where this was cancelled
            if self._timer is not None:
                self._timer.cancel()
                self._next_check, self._timer = math.inf, None

    async def _run_once(self) -> float:
        """Open a stream and serve it until it ends; give the seconds to wait before the next."""
        call = self._open_call()
        self._news.set()  # what was written to the stream before, if there was one, is to be again
        writing = self._loop.create_task(self._write(call, self._write_after_s))
        self._write_after_s = 0.0
        try:
            while isinstance(data := await call.read(), bytes):  # and not EOF
                self._pending.dispatch(data)
                if self._pending.sends_one_at_a_time:
                    self._news.set()  # the next may be written
                del data  # which may be large, and is not to wait here for the next
        except (grpc.RpcError, ServerError) as error:
            if is_unexplained(error):  # the next stream may end so before it is written to
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
                await self._news.wait()
                self._news.clear()
                while message := self._pending.take_message():
                    await call.write(message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the stream has ended: reading it says why
