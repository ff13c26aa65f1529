"""When a caller stops waiting."""

from __future__ import annotations

import time
from dataclasses import dataclass

from polyhead_server.errors import DeadlineError

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, which no adjustment of the wall clock moves; or none."""

    at_s: float | None

    @classmethod
    def after(cls, remaining_s: float | None) -> Deadline:
        """Make the deadline that lies this far ahead; None: there is none."""
        return cls(None if remaining_s is None else time.monotonic() + remaining_s)

    def has_passed(self, now: float) -> bool:
        """Whether it lies before a moment of the monotonic clock."""
        return self.at_s is not None and now >= self.at_s

    def check(self) -> None:
        """Raise DeadlineError if it has passed."""
        if self.at_s is not None and time.monotonic() >= self.at_s:
            raise DeadlineError.before_run()
