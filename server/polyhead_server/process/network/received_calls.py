"""Counts the calls that a gRPC server has received, with those that it dropped before Python.

gRPC drops calls while too many wait for Python, and tells nobody. Its own counts of calls
(channelz), of a server and of each connection, have them all.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import grpc

# grpcio-channelz, the package of the public service, reads the counts from here as well. That
# service would show all connections to all callers.
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from polyhead_server.rpc.open_calls import peer_address

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["CountedServer"]

_ENABLED = ("grpc.enable_channelz", 1)
_MAKING = threading.Lock()
_PAGE = 1000
_NUM_SAMPLED, _MIN_SAMPLED = 60, 4
"""Connections whose calls are counted, of all addresses and of each, because each takes 0.4 ms."""
_MAX_OF_CONNECTION = 100
"""Most calls of a connection that count, because those of an old one may have failed long ago."""


class CountedServer:
    """A gRPC server whose received calls are counted."""

    def __init__(self, options: Sequence[tuple[str, int]]) -> None:
        """Make the server with these options."""
        with _MAKING:  # so that the new server among those that are counted is this one
            highest = max((_id_of(server) for server in _servers(0)), default=0)
            self.server = grpc.aio.server(options=[*options, _ENABLED])
            self._id = max(_id_of(server) for server in _servers(highest + 1))

    def num_received(self) -> int:
        """Return the number of calls that gRPC has received so far. Takes 20 us."""
        found: dict[str, Any] = json.loads(cygrpc.channelz_get_server(self._id))
        return int(found["server"]["data"]["callsStarted"])

    def num_unanswered(self, addresses: Collection[str]) -> Counter[str]:
        """Return by address about how many calls of its connections failed, or are open.

        Those that gRPC drops fail. Calls that are refused with a status do not.
        """
        sockets: defaultdict[str, list[int]] = defaultdict(list)
        for ref in self._sockets():
            if (address := peer_address(ref["name"].rpartition(" ")[2])) in addresses:
                sockets[address].append(int(ref["socketId"]))
        numbers: Counter[str] = Counter()
        most = max(_MIN_SAMPLED, _NUM_SAMPLED // max(1, len(sockets)))
        for address, found in sockets.items():
            sampled = random.sample(found, min(most, len(found)))
            number = sum(map(_num_unanswered, sampled))
            numbers[address] = number * len(found) // len(sampled)
        return numbers

    def _sockets(self) -> list[dict[str, Any]]:
        """Return the ids of all connections, and the names of their peers."""
        sockets: list[dict[str, Any]] = []
        first = 0
        while True:
            page: dict[str, Any] = json.loads(
                cygrpc.channelz_get_server_sockets(self._id, first, _PAGE)
            )
            found = page.get("socketRef", [])
            sockets += found
            if page.get("end") or not found:
                return sockets
            first = int(found[-1]["socketId"]) + 1


def _num_unanswered(socket_id: int) -> int:
    try:
        found: dict[str, Any] = json.loads(cygrpc.channelz_get_socket(socket_id))
    except ValueError:  # it has ended meanwhile
        return 0
    calls = found["socket"]["data"]
    return min(_MAX_OF_CONNECTION, int(calls["streamsStarted"]) - int(calls["streamsSucceeded"]))


def _servers(first: int) -> list[dict[str, Any]]:
    """Return the servers of this process that are counted and have this id or a higher one."""
    servers: list[dict[str, Any]] = []
    while True:
        page: dict[str, Any] = json.loads(cygrpc.channelz_get_servers(first))
        servers += page.get("server", [])
        if page.get("end") or not servers:
            return servers
        first = _id_of(servers[-1]) + 1


def _id_of(server: dict[str, Any]) -> int:
    return int(server["ref"]["serverId"])
