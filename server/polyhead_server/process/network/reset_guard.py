"""Ends connections that open calls and give them up as fast as they can ("rapid reset").

Such calls leave no trace in the number of a connection's streams, and each takes time of the event
loop. gRPC has a protection of its own, which counts streams until Python has let go of them. It
refused calls of callers that only kept their connection busy (99 in flight: 5 %, 400: half of
them), so it is off.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from polyhead_server.process.network.connections import cut_connections, peers_connected
from polyhead_server.process.network.cut_log import CutLog
from polyhead_server.rpc.open_calls import peer_address

if TYPE_CHECKING:
    from polyhead_server.process.network.refused_addresses import RefusedAddresses

__all__ = ["ResetGuard"]

_MOST_OF_CONNECTION, _MOST_OF_ADDRESS = 100, 500
"""Most calls that a connection, and all those of an address, may give up unsent in a second. A
client whose deadline passes has sent its request long before."""
_PART_IF_LATE = 1 / 8
"""What a call counts whose deadline was near. A client that sends two to five times what is
answered gives up 800 to 3,000 such calls a second. They do count, because a hostile client may set
short deadlines. Beside 3,500 of them a second others are answered after 0.1 to 0.5 s."""
_MOST_AFTER_CUT = 50
"""The same of an address, if some of its connections were cut a moment ago: it comes back at once
with as many."""
_WINDOW_S, _REMEMBERED_S = 1.0, 10.0
_PAUSE_S = 0.02
"""Seconds between two looks at all connections, which take 50 ms with a thousand of them."""


class ResetGuard:
    """Watches the connections of one port."""

    def __init__(self, port: int, refused: RefusedAddresses) -> None:
        """``refused``: takes the addresses that come back after a cut, and give up calls again."""
        self._port = port
        self._refused = refused
        self._num_given_up: defaultdict[str, float] = defaultdict(float)
        """By connection, since the window began."""
        self._num_of_address: defaultdict[str, float] = defaultdict(float)
        """The same by address."""
        self._window_s = 0.0
        self._has_guilty = asyncio.Event()
        self._cut_s: dict[str, float] = {}
        """By address: when connections of it were cut last."""
        self._log = CutLog("connections cut off")

    def note(self, connection: str, is_late: bool = False) -> None:  # noqa: FBT001, FBT002
        """Count a call that was given up.

        ``connection``: as gRPC names its peer. ``is_late``: whether its deadline was near.

        A call whose deadline passed before Python had it has no peer any more, and does not count.
        """
        if not connection:
            return
        now = time.monotonic()
        if now - self._window_s > _WINDOW_S:
            self._num_given_up.clear()
            self._num_of_address.clear()
            self._window_s = now
        part = _PART_IF_LATE if is_late else 1
        self._num_given_up[connection] += part
        self._num_of_address[peer_address(connection)] += part
        if self._is_guilty(connection, now):
            self._has_guilty.set()

    async def watch(self) -> None:
        """Cut the connections that give up too many calls, until this is cancelled."""
        while True:
            await self._has_guilty.wait()
            self._has_guilty.clear()
            now = time.monotonic()
            guilty = {each for each in self._num_given_up if self._is_guilty(each, now)}
            self._cut_s = {a: then for a, then in self._cut_s.items() if now - then < _REMEMBERED_S}
            again = {*map(peer_address, guilty)} & self._cut_s.keys()
            for connection in guilty:
                address = peer_address(connection)
                self._num_of_address[address] -= self._num_given_up.pop(connection)
                self._cut_s[address] = now
            await asyncio.to_thread(self._end, guilty, again, now)
            await asyncio.sleep(_PAUSE_S)

    def _is_guilty(self, connection: str, now: float) -> bool:
        """Whether a connection gave up too many calls, alone or with others of its address."""
        address = peer_address(connection)
        was_cut = now - self._cut_s.get(address, -_REMEMBERED_S) < _REMEMBERED_S
        most = _MOST_AFTER_CUT if was_cut else _MOST_OF_ADDRESS
        of_connection, of_address = self._num_given_up[connection], self._num_of_address[address]
        return of_connection >= _MOST_OF_CONNECTION or of_address >= most

    def _end(self, guilty: set[str], again: set[str], now: float) -> None:
        if again:
            self._refused.refuse([*again], now)
        self.cut(guilty)

    def cut(self, guilty: set[str]) -> None:
        """Cut connections, and note it in the log, at most every ten seconds."""
        connected = peers_connected(self._port)
        found = {peer: connected[peer] for peer in guilty if peer in connected}
        cut_connections(found)
        if found:
            self._log.note(
                len(found), peer=next(iter(found)), why="calls are opened only to be given up"
            )
