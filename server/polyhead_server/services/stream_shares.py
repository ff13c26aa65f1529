"""Limits the open streams of a service, and the bytes that each may hold."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from polyhead_server.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyhead_server.settings import ServerSettings

__all__ = ["StreamShares"]

_MIN_STREAMS = 64
_RETRY_AFTER_MS = 1000


class StreamShares:
    """The open streams of a service, which share as many bytes as --max-queue-bytes equally.

    The streams of one peer have half of --max-peer-share of them together, because what they hold
    is counted with the peer's other requests as well, and one request may exceed a share.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._max_bytes = settings.max_queue_bytes
        self._max_peer_share = settings.max_peer_share
        self._max_streams = max(_MIN_STREAMS, self._max_bytes // settings.stream_limits.min_bytes)
        self._num_by_peer: Counter[str] = Counter()
        """Number of open streams by peer."""

    @contextmanager
    def open(self, peer: str) -> Iterator[Callable[[], int]]:
        """Count a stream, and yield a function that returns its current share in bytes.

        Raises OverloadedError if so many streams are open that their shares would be too small.
        """
        num_all, num_own = self._num_by_peer.total(), self._num_by_peer[peer]
        if num_all >= self._max_streams or num_own >= self._max_streams * self._max_peer_share:
            raise OverloadedError(
                f"{num_all} streams are open, {num_own} of this address: close some, try again "
                "shortly, or raise the server's --max-queue-bytes or --max-peer-share",
                _RETRY_AFTER_MS,
            )
        self._num_by_peer[peer] += 1
        try:
            yield lambda: self._share_bytes(peer)
        finally:
            self._num_by_peer[peer] -= 1
            if not self._num_by_peer[peer]:
                del self._num_by_peer[peer]

    def _share_bytes(self, peer: str) -> int:
        of_all = self._max_bytes // self._num_by_peer.total()
        of_peer = int(self._max_bytes * self._max_peer_share / 2) // self._num_by_peer[peer]
        return min(of_all, of_peer)
