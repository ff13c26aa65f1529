"""Ends connections of an address whose calls crowd out those of others.

gRPC lets a number of calls wait for Python, and drops all further ones, of every caller. An
address with hundreds of busy connections fills all places, so that calls of others are dropped as
well. Then all its connections are ended, because dropping calls that come again at once takes the
time in which those that wait would be answered. For a second it cannot connect, or for longer if
this happens again. Then it may have a quarter as many for a while.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from polyhead_server.process.network.connections import (
    by_address,
    cut_connections,
    num_by_address,
    peers_connected,
)
from polyhead_server.process.network.cut_log import CutLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.process.network.refused_addresses import RefusedAddresses

__all__ = ["CrowdGuard"]

_WINDOW_S, _LIMITED_S = 5.0, 10.0


class CrowdGuard:
    """Watches the connections of one port."""

    def __init__(
        self,
        port: int,
        num_unseen: Callable[[], int],
        max_waiting: int,
        min_connections: int,
        refused: RefusedAddresses,
        *,
        poll_s: float = 0.1,
    ) -> None:
        """``num_unseen``: returns how many calls gRPC has received and Python has not seen so far.

        ``max_waiting``: how many of them may wait; gRPC has dropped the others.
        ``min_connections``: how many connections an address may keep in any case.
        ``refused``: takes the address that crowds out others.
        """
        self._port = port
        self._num_unseen = num_unseen
        self._max_waiting = max_waiting
        self._min_connections = min_connections
        self._refused = refused
        self._poll_s = poll_s
        self._history: deque[tuple[float, int]] = deque()
        """Calls that Python had not seen, by time, over the last seconds."""
        self._limits: dict[str, tuple[int, float]] = {}
        """By address: how many connections it may keep, and until when."""
        self._log = CutLog("connections cut off, because their calls crowd out others")

    async def watch(self) -> None:
        """Check the calls and the connections repeatedly, until this is cancelled.

        A thread does it, because the event loop is busy for a second where thousands of calls wait.
        """
        stop = threading.Event()
        try:
            await asyncio.to_thread(self._check_until, stop)
        finally:
            stop.set()

    def _check_until(self, stop: threading.Event) -> None:
        while not stop.wait(self._poll_s):
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        """End connections if calls were dropped, or if an address with a limit has more of them."""
        has_dropped = self._has_dropped(now)
        self._limits = {a: limit for a, limit in self._limits.items() if limit[1] > now}
        if has_dropped or self._limits:
            self._limit(now, has_dropped=has_dropped)

    def _has_dropped(self, now: float) -> bool:
        """Whether gRPC has dropped many calls within the last seconds, since this was true last."""
        history, num_unseen = self._history, self._num_unseen()
        history.append((now, num_unseen))
        while history[0][0] < now - _WINDOW_S:
            history.popleft()
        # So many can wait, and all further ones were dropped: as many again are many, and fewer may
        # be the dropped calls of honest callers, who had a few more in flight than can wait.
        if num_unseen - min(number for _, number in history) <= 2 * self._max_waiting:
            return False
        history.clear()
        return True

    def _limit(self, now: float, *, has_dropped: bool) -> None:
        counts = num_by_address(self._port)
        if has_dropped and len(counts) > 1:  # one address alone crowds out nobody
            [(busiest, count)] = counts.most_common(1)
            if count > self._min_connections:
                most = max(self._min_connections, count // 4)
                self._limits[busiest] = most, self._refused.refuse(busiest, now) + _LIMITED_S
        allowed = {address: self._allowed(address, now) for address in self._limits}
        if any(counts[address] > most for address, most in allowed.items()):
            connected = peers_connected(self._port)
            groups = by_address(connected)
            for address, most in allowed.items():
                if excess := groups[address][most:]:
                    cut_connections({peer: connected[peer] for peer in excess})
                    self._log.note(len(excess), peer=address, most=self._limits[address][0])

    def _allowed(self, address: str, now: float) -> int:
        """Return how many connections an address with a limit may have now."""
        return 0 if self._refused.is_refused(address, now) else self._limits[address][0]
