"""The server's log of ended calls, to wait for."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager

from polyhead_server.limits import LogLimits

PATIENCE_S = 20
EVERY_LINE = LogLimits(lines_in_window=1_000_000)
"""For servers whose lines are awaited: a server leaves lines out after a few like ones."""


class CallLog(logging.Handler):
    """The log's lines of ended calls, by their request ids, as they come."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self._changed = threading.Condition()

    def emit(self, record):
        with self._changed:
            self.lines.append(record)
            self._changed.notify_all()

    def first(self, count):
        """Wait for so many calls to end, and give their lines."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= count, PATIENCE_S)
            return self.lines[:count]

    def line_of(self, request_id):
        """Wait for a call to end, and give its line."""

        def found():
            return [r for r in self.lines if vars(r).get("request_id") == str(request_id)]

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE_S)
            return found()[0]

    def code_of(self, request_id):
        """Wait for a call to end, and give the code it ended with."""
        return self.line_of(request_id).code


@contextmanager
def call_log():
    """Collect the lines of all calls, also of those that succeed."""
    log, handler = logging.getLogger("polyhead.rpc"), CallLog()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
