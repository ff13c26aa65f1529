"""The log of ended calls: a sample of successes, and errors, but only some of many equal ones."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from typing import TYPE_CHECKING

from polyhead_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyhead_server.limits import LogLimits
    from polyhead_server.rpc.call_counts import Refusal

__all__ = ["CallLog"]

_LOG = logging.getLogger("polyhead.rpc")


class CallLog:
    """Writes a line for each ended call that is selected for the log."""

    def __init__(self, sample: float, limits: LogLimits) -> None:
        """``sample``: share of successful calls that are logged at info; others are at debug."""
        self._sample = sample
        self._limits = limits
        self._windows: dict[Refusal, int] = {}
        """Number of refusals in the current window, by their labels."""
        self._incidents: dict[tuple[str, type[Exception]], tuple[float, str]] = {}
        """Time of the last logged traceback, and its incident, by method and type of error."""

    @property
    def has_successes(self) -> bool:
        """Whether some successful calls are logged."""
        return self._sample > 0 or _LOG.isEnabledFor(logging.DEBUG)

    def answered(self, make_fields: Callable[[], dict[str, object]], times: int = 1) -> None:
        """Log successful calls that have the same fields.

        ``make_fields``: called only if a line is written.
        """
        has_debug = _LOG.isEnabledFor(logging.DEBUG)
        for _ in range(times):
            if self._sample and random.random() < self._sample:  # noqa: S311 - no secret
                _LOG.info("call", extra=make_fields())
            elif has_debug:
                _LOG.debug("call", extra=make_fields())

    def refused(self, refusal: Refusal, make_fields: Callable[[], dict[str, object]]) -> None:
        """Log a call that was refused or cancelled, unless many equal refusals have been logged.

        The first refusals with the same labels in a window have a line each. The others are
        counted, and their count is logged when the window ends.
        """
        count = self._windows[refusal] = self._windows.get(refusal, 0) + 1
        if count == 1:
            loop = asyncio.get_running_loop()
            loop.call_later(self._limits.window_s, self._end_window, refusal)
        if count <= self._limits.lines_in_window and _LOG.isEnabledFor(logging.INFO):
            _LOG.info("call", extra=make_fields())

    def unexpected(self, method: str, error: Exception) -> RequestError:
        """Log an unexpected error, and return the error for the caller.

        Only the first error of a method and type in a window has a traceback, because a caller who
        can cause such an error may repeat it. Lines of later ones name the incident of the first.
        """
        incident, kind, now = uuid.uuid4().hex[:12], (method, type(error)), time.monotonic()
        fields = {"method": method, "incident": incident}
        logged_s, first = self._incidents.get(kind, (0.0, ""))
        if first and now - logged_s < self._limits.window_s:
            _LOG.error("unexpected error", extra={**fields, "as_in_incident": first})
        else:
            self._incidents[kind] = now, incident
            _LOG.error("unexpected error", exc_info=error, extra=fields)
        return RequestError(f"internal error, incident {incident}", "INTERNAL")

    def flush(self) -> None:
        """Log the counts of lines that were left out. Called when the server stops."""
        for refusal in list(self._windows):
            self._end_window(refusal)

    def _end_window(self, refusal: Refusal) -> None:
        num_left_out = self._windows.pop(refusal, 0) - self._limits.lines_in_window
        if num_left_out > 0:
            fields = {"left_out": num_left_out, "in_s": self._limits.window_s}
            _LOG.info("calls of one kind not logged", extra=refusal._asdict() | fields)
