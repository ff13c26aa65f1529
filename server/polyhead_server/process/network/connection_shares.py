"""Keeps a few addresses from having nearly all connections, so that others can connect.

gRPC bounds the number of all connections, and not that of one address. So the process looks at its
own sockets, and ends some of the address that has most when there are few places left. For a while
such an address can open no further ones, because it would at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from polyhead_server.process.network.connections import (
    by_address,
    cut_connections,
    num_descriptors,
    peers_connected,
)
from polyhead_server.process.network.cut_log import CutLog

if TYPE_CHECKING:
    from polyhead_server.process.network.refused_addresses import RefusedAddresses
    from polyhead_server.rpc.open_calls import OpenCalls

__all__ = ["ConnectionShares"]

_CROWDED = 0.75
"""Part of the places from which on the shares hold."""
_TAKEN = 0.9
"""Largest part of the places that the addresses with most connections may keep together."""


class ConnectionShares:
    """The connections of one port, by the addresses of their peers."""

    def __init__(
        self,
        calls: OpenCalls,
        port: int,
        max_connections: int,
        max_share: float,
        refused: RefusedAddresses,
        *,
        poll_s: float = 0.2,
    ) -> None:
        """``max_share``: the largest share of the connections that one address may keep.

        ``refused``: takes the addresses that have more.
        """
        self._calls = calls
        self._port = port
        self._max_connections = max_connections
        self._max_share = max_share
        self._refused = refused
        self._poll_s = poll_s
        self._log = CutLog("connections cut off, to leave some to others")

    async def watch(self) -> None:
        """Check the connections repeatedly, until this is cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            if num_descriptors() > _CROWDED * self._max_connections:
                # in a thread, because it takes 50 ms with a thousand connections
                await asyncio.to_thread(self.cut, self._calls.peers(), time.monotonic())

    def cut(self, busy: set[str], now: float) -> None:
        """End connections of each address that has more than its share, and let it open no others.

        Where the addresses together have nearly all places, those with most keep equally many.
        ``busy``: peers with open calls, whose connections go last.
        """
        connected = peers_connected(self._port)
        groups = by_address(connected)
        most = self._most_of_one([len(peers) for peers in groups.values()])
        over = {address: peers for address, peers in groups.items() if len(peers) > most}
        if over:
            self._refused.refuse([*over], now)
        for address, peers in over.items():
            peers.sort(key=busy.__contains__)
            excess = peers[: len(peers) - most]
            cut_connections({peer: connected[peer] for peer in excess})
            self._log.note(len(excess), peer=address, most=most)

    def _most_of_one(self, counts: list[int]) -> int:
        """Return how many connections one address may keep, where addresses have so many."""
        most = int(self._max_connections * self._max_share)
        if self._max_share < 1:
            left = self._max_connections * _TAKEN
            for index, count in enumerate(sorted(counts)):
                share = left / (len(counts) - index)
                if count > share:
                    most = min(most, int(share))
                    break
                left -= count
        return max(1, most)
