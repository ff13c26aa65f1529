"""The order of turns among waiting jobs: of one peer after the other, and of its callers.

A peer with hundreds of connections has the turns of one peer, however many callers they are. Behind
one address, such as that of a proxy, callers have equal shares of its turns.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from polyhead_server.scheduling.shares import CallerShares

if TYPE_CHECKING:
    from polyhead_server.origin import Origin
    from polyhead_server.scheduling.queue import QueueEntry

__all__ = ["Turns"]


class Turns:
    """Waiting jobs by peer and caller. No operation takes longer when more jobs wait."""

    def __init__(self, shares: CallerShares) -> None:
        """``shares``: the computing time of peers."""
        self._peers = _Order(shares)
        self._callers: dict[str, _Order] = {}
        """The jobs of each peer that has any, by caller, with the computing time of its callers."""

    def append(self, entry: QueueEntry) -> None:
        """Add a job, which is younger than all others."""
        peer, caller = entry.origin
        self._peers.append(peer, entry)
        if peer not in self._callers:
            self._callers[peer] = _Order(CallerShares())
        self._callers[peer].append(caller, entry)

    def remove(self, entry: QueueEntry) -> None:
        """Remove a job."""
        peer, caller = entry.origin
        self._peers.remove(peer, entry)
        if self._peers.num_waiting(peer):
            self._callers[peer].remove(caller, entry)
        else:
            del self._callers[peer]

    def next_entry(self) -> QueueEntry:
        """Return the job with the next turn. Some job must wait.

        It is the oldest of the caller with the least computing time, of the peer with the least.
        """
        callers = self._callers[self._peers.first()]
        return callers.oldest(callers.first())

    def begin_turn(self, origin: Origin) -> None:
        """Note that a caller has the next turn, which had the least computing time."""
        self._peers.shares.begin_turn(origin.peer)
        if callers := self._callers.get(origin.peer):
            callers.shares.begin_turn(origin.caller)

    def charge(self, origin: Origin, seconds: float) -> None:
        """Add to a caller's computing time, if other jobs of its peer wait."""
        if callers := self._callers.get(origin.peer):
            callers.shares.charge(origin.caller, seconds)

    def num_of_peer(self, origin: Origin) -> int:
        """Return the number of a peer's waiting jobs."""
        return self._peers.num_waiting(origin.peer)

    def num_of_caller(self, origin: Origin) -> int:
        """Return the number of a caller's waiting jobs."""
        callers = self._callers.get(origin.peer)
        return callers.num_waiting(origin.caller) if callers else 0

    def oldest_of_caller(self, origin: Origin) -> QueueEntry | None:
        """Return a caller's oldest job; None if none waits."""
        has_any = self.num_of_caller(origin)
        return self._callers[origin.peer].oldest(origin.caller) if has_any else None

    def clear(self) -> None:
        """Forget everything. No job may wait."""
        self._peers.clear()
        self._callers.clear()


class _Order:
    """Keys with waiting jobs; the first one has the least computing time.

    Invariant: ``_heap`` has one item for each key with waiting jobs. An item may be out of date:
    its number may be that of an older job that has left, and its seconds may be fewer than the
    key's. It is then too low, never too high, so it comes up in time. It is corrected when it does.
    """

    __slots__ = ("_by_key", "_heap", "shares")

    def __init__(self, shares: CallerShares) -> None:
        self.shares = shares
        """The computing time of the keys."""
        self._by_key: dict[str, OrderedDict[int, QueueEntry]] = {}
        """Jobs by number. A plain dict would take linear time to find its first entry."""
        self._heap: list[tuple[float, int, str]] = []

    def append(self, key: str, entry: QueueEntry) -> None:
        if key not in self._by_key:
            self._by_key[key] = OrderedDict()
            heappush(self._heap, (self.shares.used(key), entry.number, key))
        self._by_key[key][entry.number] = entry

    def remove(self, key: str, entry: QueueEntry) -> None:
        del self._by_key[key][entry.number]

    def first(self) -> str:
        """Return the key with the least computing time. Some job must wait."""
        while True:
            *_, key = turn = self._heap[0]
            if not self._by_key[key]:
                heappop(self._heap)
                del self._by_key[key]
                continue
            current = (self.shares.used(key), self.oldest(key).number, key)
            if turn == current:
                return key
            heapreplace(self._heap, current)

    def oldest(self, key: str) -> QueueEntry:
        """Return the oldest job of a key with waiting jobs."""
        return next(iter(self._by_key[key].values()))

    def num_waiting(self, key: str) -> int:
        return len(self._by_key.get(key, ()))

    def clear(self) -> None:
        self._by_key.clear()
        self._heap.clear()
