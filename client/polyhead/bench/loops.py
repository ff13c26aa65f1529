"""The closed and the open loop, which send a plan's requests.

Times are those of the event loop's clock, which is time.monotonic().
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
"""AsyncClient.attend, or a substitute for it."""


class Load:
    """The load that one process sends, from ``start`` on."""

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
        self._num_left = math.inf if plan.requests is None else plan.requests
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Send the plan's requests, and wait until each has been answered or has failed."""
        if (delay := self._start - self._clock()) > 0:
            await asyncio.sleep(delay)
        await (self._closed_loop() if self._plan.rate is None else self._open_loop())

    async def _closed_loop(self) -> None:
        """Run `concurrency` callers, each of which awaits a response before it sends again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.concurrency):
                group.create_task(self._send_repeatedly())

    async def _send_repeatedly(self) -> None:
        while self._admit(now := self._clock()):
            await self._send(now, now)

    async def _open_loop(self) -> None:
        """Send each request when it is due, whether or not earlier ones have been answered."""
        plan, clock = self._plan, self._clock
        slots = asyncio.Semaphore(plan.max_in_flight)
        released = self._start  # when a request last left a full semaphore
        async with asyncio.TaskGroup() as group:
            for at in arrival_times(plan):
                due = self._recorder.origin + at
                if not self._admit(due):
                    break
                if (delay := due - clock()) > 0:
                    await asyncio.sleep(delay)
                was_full = slots.locked()
                await slots.acquire()
                if was_full:
                    released = clock()
                if due < released:  # it waited for a slot, or queued behind one that did
                    self._recorder.held_back += due >= self._recorder.origin
                    if clock() - due > plan.max_wait_s:
                        slots.release()
                        self._record_not_sent(due)
                        continue
                group.create_task(self._send_and_release(due, max(due, released), slots))

    async def _send_and_release(
        self, due: float, sendable: float, slots: asyncio.Semaphore
    ) -> None:
        try:
            await self._send(due, sendable)
        finally:
            slots.release()

    def _admit(self, due: float) -> bool:
        """Whether a request due at this time is part of the run; count it if it is measured."""
        if due < self._recorder.origin:
            return True
        if due >= self._recorder.end or self._num_left <= 0:
            return False
        self._num_left -= 1
        self._recorder.sent += 1
        return True

    def _record_not_sent(self, due: float) -> None:
        """Count as failed a request that waited too long, so that an overloaded run ends."""
        plan = self._plan
        message = f"not sent within {plan.max_wait_s:g} s: {plan.max_in_flight} were in flight"
        self._recorder.record_failure(
            due, self._clock(), DeadlineExceededError(message, code="NOT_SENT")
        )

    async def _send(self, due: float, sendable: float) -> None:
        """Send one request. Its latency counts from its due time, however late it is sent."""
        payload = next(self._payloads)
        self._recorder.record_start(due, self._clock() - sendable)
        try:
            result = await self._attend(**payload.arguments)
        except PolyheadError as error:
            self._recorder.record_failure(due, self._clock(), error)
        else:
            self._recorder.record_answer(due, self._clock(), payload.tokens, result.execution)
