"""Refused requests of streams: one line of the log for a message, and a bounded share of the time.

A request of two bytes that is refused costs 20 us and more, with its reply. So a stream that sends
many is read more slowly, and others are served meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from polyhead_server.errors import drop_frames

if TYPE_CHECKING:
    from polyhead_server.errors import RequestError
    from polyhead_server.rpc.call_context import CallContext
    from polyhead_server.rpc.observer import CallObserver

__all__ = ["RefusalPace", "RefusedRequests"]

_MAX_PEERS = 1000
"""Peers from which on those that need not wait any more are forgotten."""


class RefusalPace:
    """Bounds the share of time that the refusals of all streams of one peer take."""

    def __init__(self, seconds_each: float = 0.0005) -> None:
        """``seconds_each``: how long each refusal delays its stream, ten times its cost."""
        self._seconds_each = seconds_each
        self._free_at: dict[str, float] = {}
        """By peer: the monotonic time from which on more may be refused. Each has its own, because
        a peer with hundreds of streams can make it minutes."""

    async def pause(self, num_refused: int, peer: str) -> None:
        """Wait before more is read of a peer's stream of which so many requests were refused."""
        now = time.monotonic()
        free_at = max(self._free_at.get(peer, now), now) + num_refused * self._seconds_each
        if len(self._free_at) >= _MAX_PEERS:
            self._free_at = {each: then for each, then in self._free_at.items() if then > now}
        self._free_at[peer] = free_at
        await asyncio.sleep(free_at - now)


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
            drop_frames(error)
            self._first = error, log_fields

    async def keep(self, pace: RefusalPace, peer: str) -> None:
        """Wait for the refusals since the last call; return at once if there are none."""
        if (count := self._reasons.total() - self._num_paced) > 0:
            self._num_paced += count
            await pace.pause(count, peer)

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
