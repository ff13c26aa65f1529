"""Ends connections of an address whose calls crowd out those of others.

gRPC lets a number of calls wait for Python, and drops all further ones, of every caller. An
address with hundreds of busy connections fills all places, so that calls of others are dropped as
well. Then all its connections are ended, because dropping calls that come again at once takes the
time in which those that wait would be answered. For a second it cannot connect, or for longer if
this happens again. Then it may have a quarter as many for a while.

Several addresses can do so together. So those go that have most of the calls without an answer, as
few as have three quarters of them; if the others are still too many, more follow a moment later.
An address with many connections that calls little is left alone.

Where calls are dropped, little time is left to look at connections, and several addresses do not
begin in the same moment. So while the guard looks, and for nearly a second, none of those with many
connections may open new ones. Then it looks a second time.
"""

from __future__ import annotations

import asyncio
import math
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
from polyhead_server.process.network.refused_addresses import PAUSED_S, RefusedAddresses

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection

__all__ = ["CrowdGuard"]

_WINDOW_S, _LIMITED_S = 5.0, 10.0
_LOOK_EVERY_S = 1.0
"""Seconds until the next look at connections if the last one found none to end: a look reads all of
the machine's, which takes 5 to 11 ms, and an address may be refused for minutes."""
_REFUSED_PER_LOOK = 10
"""An address is refused at least so many times as long as the look that found it took. On a busy
machine a look takes a second, and addresses that it finds one after the other would come back."""
_FEW_CONNECTIONS = 2
"""An address may keep so many, however many other addresses there are."""
_CROWDING = 0.75
"""Part of the calls without an answer whose addresses are refused at one time."""


class CrowdGuard:
    """Watches the connections of one port."""

    def __init__(
        self,
        port: int,
        num_unseen: Callable[[], int],
        max_waiting: int,
        *,
        min_connections: int,
        num_unanswered: Callable[[Collection[str]], Counter[str]],
        refused: RefusedAddresses,
        poll_s: float = 0.1,
    ) -> None:
        """``num_unseen``: returns how many calls gRPC has received and Python has not seen so far.

        ``max_waiting``: how many of them may wait; gRPC has dropped the others.
        ``min_connections``: how many connections all addresses may have together in any case.
        ``num_unanswered``: returns how many calls of these addresses gRPC has dropped or Python has
        not answered so far.
        ``refused``: takes the addresses that crowd out others.
        """
        self._port = port
        self._num_unseen = num_unseen
        self._max_waiting = max_waiting
        self._min_connections = min_connections
        self._num_unanswered = num_unanswered
        self._refused = refused
        self._poll_s = poll_s
        self._history: deque[tuple[float, int]] = deque()
        """Calls that Python had not seen, by time, over the last seconds."""
        self._limits: dict[str, tuple[int, float]] = {}
        """By address: how many connections it may keep, and until when."""
        self._second_look_s = math.inf
        """When the calls of each connection are looked at again after calls were dropped."""
        self._looks_at = 0.0
        """When connections of addresses with a limit are looked at next."""
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
        is_second = now >= self._second_look_s
        self._limits = {a: limit for a, limit in self._limits.items() if limit[1] > now}
        if has_dropped or is_second or (self._limits and now >= self._looks_at):
            counts = num_by_address(self._port)
            if has_dropped or is_second:
                self._limit(now, counts, is_second=not has_dropped)
                self._second_look_s = now + PAUSED_S if has_dropped else math.inf
            has_cut = self._cut(now, counts)
            self._looks_at = now if has_cut else now + _LOOK_EVERY_S
            if has_dropped:  # calls that arrived meanwhile are those of connections that are cut
                self._history.append((now, self._num_unseen()))

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

    def _limit(self, now: float, counts: Counter[str], *, is_second: bool) -> None:
        """Let the addresses that crowd out others connect no more, and later a quarter as often.

        ``counts``: the number of connections, by address. ``is_second``: whether the guard looks
        for the second time. Those that crowd out others may be gone by then, so an address may have
        half as many calls without an answer as can wait.
        """
        if len(counts) < 2:  # one address alone crowds out nobody
            return
        least = max(_FEW_CONNECTIONS, self._min_connections // len(counts))
        suspects = [address for address, count in counts.most_common() if count > least]
        if not is_second:
            self._refused.pause(suspects, now)
        began = time.monotonic()
        crowd = self._crowd(suspects, self._max_waiting // 2 if is_second else 0)
        if crowd:
            least_s = _REFUSED_PER_LOOK * (time.monotonic() - began)
            ends = self._refused.refuse(crowd, now, least_s)
            for address, end in zip(crowd, ends, strict=True):
                self._limits[address] = max(least, counts[address] // 4), end + _LIMITED_S

    def _crowd(self, suspects: Collection[str], allowed: int) -> list[str]:
        """Return those with most calls without an answer, as few as have three quarters of all.

        ``allowed``: how many such calls an address may have in any case.
        """
        num_unanswered = self._num_unanswered(suspects)
        crowd, left = [], num_unanswered.total() * _CROWDING
        for address, number in num_unanswered.most_common():
            if left <= 0 or number <= allowed:
                break
            crowd.append(address)
            left -= number
        return crowd

    def _cut(self, now: float, counts: Counter[str]) -> bool:
        """End the connections that addresses with a limit have beyond it; return if there are."""
        allowed = {address: self._allowed(address, now) for address in self._limits}
        has_excess = any(counts[address] > most for address, most in allowed.items())
        if has_excess:
            connected = peers_connected(self._port)
            groups = by_address(connected)
            for address, most in allowed.items():
                if excess := groups[address][most:]:
                    cut_connections({peer: connected[peer] for peer in excess})
                    self._log.note(len(excess), peer=address, most=self._limits[address][0])
        return has_excess

    def _allowed(self, address: str, now: float) -> int:
        """Return how many connections an address with a limit may have now."""
        return 0 if self._refused.is_refused(address, now) else self._limits[address][0]
