"""The two ways of putting load on a server: the closed and the open loop.

The clock is the event loop's, time.monotonic() in practice.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, TypeAlias

from polyhead.bench.arrivals import arrival_times
from polyhead.errors import DeadlineExceededError, PolyheadError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from polyhead.bench.payloads import Payload
    from polyhead.bench.plan import Plan
    from polyhead.bench.samples import Recorder
    from polyhead.results import AttentionResult

__all__ = ["Attend", "Load"]

Attend: TypeAlias = "Callable[..., Awaitable[AttentionResult]]"
"""AsyncClient.attend, or what stands in for it."""


class Load:
    """One process's load, from ``start`` on."""

    def __init__(
        self,
        attend: Attend,
        payloads: Iterator[Payload],
        plan: Plan,
        recorder: Recorder,
        *,
        start: float,
    ) -> None:
        self._attend = attend
        self._payloads = payloads
        self._plan = plan
        self._recorder = recorder
        self._start = start
        self._left = math.inf if plan.requests is None else plan.requests
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Send until the plan is carried out and every request has come back."""
        if (delay := self._start - self._clock()) > 0:
            await asyncio.sleep(delay)
        await (self._closed_loop() if self._plan.rate is None else self._open_loop())

    async def _closed_loop(self) -> None:
        """So many callers, each of which waits for an answer before it sends again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrency):
                group.create_task(self._caller())

    async def _caller(self) -> None:
        while self._admits(now := self._clock()):
            await self._send(now, now)

    async def _open_loop(self) -> None:
        """Requests are sent when they are due, whether or not earlier ones have come back."""
        plan, clock = self._plan, self._clock
        slots = asyncio.Semaphore(plan.max_in_flight)
        released = self._start  # when the limit of requests under way last let one go
        async with asyncio.TaskGroup() as group:
            for at in arrival_times(plan):
                due = self._recorder.origin + at
                if not self._admits(due):
                    break
                if (delay := due - clock()) > 0:
                    await asyncio.sleep(delay)
                if slots.locked():
                    await slots.acquire()
                    released = clock()
                else:
                    await slots.acquire()
                if due < released:  # this one waited, or stood behind one that did
                    self._recorder.held_back += due >= self._recorder.origin
                    if clock() - due > plan.patience_s:
                        slots.release()
                        self._give_up(due)
                        continue
                group.create_task(self._send_and_release(due, max(due, released), slots))

    async def _send_and_release(
        self, due: float, sendable: float, slots: asyncio.Semaphore
    ) -> None:
        try:
            await self._send(due, sendable)
        finally:
            slots.release()

    def _admits(self, due: float) -> bool:
        """Whether a request that is due then belongs to the run, and count it if it is measured."""
        if due < self._recorder.origin:
            return True
        if due >= self._recorder.end or self._left <= 0:
            return False
        self._left -= 1
        self._recorder.sent += 1
        return True

    def _give_up(self, due: float) -> None:
        """Count as failed what no caller would still wait for: an overload must come to an end."""
        plan = self._plan
        message = f"not sent within {plan.patience_s:g} s: {plan.max_in_flight} were under way"
        self._recorder.failed(due, self._clock(), DeadlineExceededError(message, code="NOT_SENT"))

    async def _send(self, due: float, sendable: float) -> None:
        """Send one request. Its latency counts from when it was due, however late it is sent."""
        payload = next(self._payloads)
        self._recorder.started(due, self._clock() - sendable)
        try:
            result = await self._attend(**payload.arguments)
        except PolyheadError as error:
            self._recorder.failed(due, self._clock(), error)
        else:
            self._recorder.answered(due, self._clock(), payload.tokens, result.execution)
