"""Ends connections that open calls and give them up as fast as they can ("rapid reset").

Such calls leave no trace in the number of a connection's streams, and each takes time of the event
loop. gRPC has a protection of its own, which counts streams until Python has let go of them. It
refused calls of callers that only kept their connection busy (99 in flight: 5 %, 400: half of
them), so it is off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from polyhead_server.process.network.connections import cut_connections, peers_connected

__all__ = ["ResetGuard"]

_LOG = logging.getLogger("polyhead.connections")
_MOST_GIVEN_UP = 100
"""Most calls that a connection may give up unsent in a second. A client whose deadline passes has
sent its request long before."""
_WINDOW_S = 1.0


class ResetGuard:
    """Watches the connections of one port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._num_given_up: Counter[str] = Counter()
        """By connection, since the window began."""
        self._window_s = 0.0
        self._cutting: set[asyncio.Future[None]] = set()

    def note(self, connection: str) -> None:
        """Count a call that was given up; end its connection if there are too many.

        ``connection``: as gRPC names its peer.
        """
        now = time.monotonic()
        if now - self._window_s > _WINDOW_S:
            self._num_given_up.clear()
            self._window_s = now
        self._num_given_up[connection] += 1
        if self._num_given_up[connection] == _MOST_GIVEN_UP:
            # in a thread, because it takes 50 ms with a thousand connections
            cutting = asyncio.ensure_future(asyncio.to_thread(self._cut, connection))
            self._cutting.add(cutting)
            cutting.add_done_callback(self._cutting.discard)

    def _cut(self, connection: str) -> None:
        connected = peers_connected(self._port)
        if connection in connected:
            cut_connections({connection: connected[connection]})
        extra = {"peer": connection, "why": "it opens calls only to give them up"}
        _LOG.warning("connection cut off", extra=extra)
