"""Logs connections that are ended, without a line for each."""

from __future__ import annotations

import logging
import time

__all__ = ["CutLog"]

_LOG = logging.getLogger("polyhead.connections")
_EVERY_S = 10.0


class CutLog:
    """Counts ended connections, and writes a line with their number at most every ten seconds."""

    def __init__(self, event: str) -> None:
        """``event``: the log event, which says why connections are ended."""
        self._event = event
        self._num_cut = 0
        self._logged_s = -_EVERY_S

    def note(self, num_cut: int, **fields: object) -> None:
        """Count ended connections. ``fields``: further fields of the line, if one is written."""
        self._num_cut += num_cut
        now = time.monotonic()
        if now - self._logged_s >= _EVERY_S:
            _LOG.warning(self._event, extra={"connections": self._num_cut, **fields})
            self._num_cut, self._logged_s = 0, now
