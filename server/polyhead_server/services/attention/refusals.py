"""Refused requests of streams: one line of the log for a message, and a bounded share of the time.

A request of two bytes that is refused costs 20 us and more, with its reply. So a stream that sends
many is read more slowly, and others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyhead_server.errors import RequestError
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.observer import CallObserver

__all__ = ["RefusalPace", "RefusedRequests"]


class RefusalPace:
    """Bounds the share of time that the refusals of all streams of a server take."""

    def __init__(self, seconds_each: float = 0.0005) -> None:
        """``seconds_each``: how long each refusal delays its stream, ten times its cost."""
        self._seconds_each = seconds_each
        self._free_at = 0.0
        """Monotonic time from which on more may be refused."""

    async def pause(self, num_refused: int) -> None:
        """Wait before more is read of a stream of which so many requests were refused."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + num_refused * self._seconds_each
        await asyncio.sleep(self._free_at - now)


class RefusedRequests:
    """The refused requests of one message."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._first: tuple[RequestError, dict[str, object]] | None = None
        self._num_paced = 0

    def add(self, error: RequestError, log_fields: dict[str, object]) -> None:
        """Count a request, with its fields for the log."""
        self._reasons[error.reason] += 1
        if self._first is None:
            # The traceback leads to the frame that has this object: a cycle, which keeps the call.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            self._first = error, log_fields

    async def keep(self, pace: RefusalPace) -> None:
        """Wait for the refusals since the last call; return at once if there are none."""
        if (count := self._reasons.total() - self._num_paced) > 0:
            self._num_paced += count
            await pace.pause(count)

    def log(self, call: CallContext, observer: CallObserver) -> None:
        """Log all refusals in one line, which describes the first one."""
        if self._first is None:
            return
        error, fields = self._first
        if (count := self._reasons.total()) > 1:
            reasons = ", ".join(f"{reason} {n}" for reason, n in self._reasons.most_common())
            fields = fields | {"requests": count, "reasons": reasons}
        now = time.monotonic()
        observer.request_ended(call, now, None, error, fields, times=count)
