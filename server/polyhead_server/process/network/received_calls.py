"""Counts the calls that a gRPC server has received, with those that it dropped before Python.

gRPC drops calls while too many wait for Python, and tells nobody. Its own count of calls (channelz)
has them all.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import grpc

# grpcio-channelz, the package of the public service, reads the counts from here as well. That
# service would show all connections to all callers.
from grpc._cython import cygrpc  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CountedServer"]

_ENABLED = ("grpc.enable_channelz", 1)
_MAKING = threading.Lock()


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
