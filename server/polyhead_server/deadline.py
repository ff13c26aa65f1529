"""When a caller stops waiting."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from polyhead_server.errors import DeadlineError

if TYPE_CHECKING:
    from collections.abc import Awaitable

_T = TypeVar("_T")

__all__ = ["Deadline"]


class Deadline(NamedTuple):
    """A point on the monotonic clock, which no adjustment of the wall clock moves; or none."""

    at_s: float | None

    @classmethod
    def after(cls, remaining_s: float | None) -> Deadline:
        """Make the deadline that lies this far ahead; None: there is none."""
        return cls(None if remaining_s is None else time.monotonic() + remaining_s)

    def or_after(self, remaining_s: float) -> Deadline:
        """Give this one, or that which lies so far ahead if it is earlier."""
        at_s = time.monotonic() + remaining_s
        return self if self.at_s is not None and self.at_s <= at_s else Deadline(at_s)

    async def ends(self, work: Awaitable[_T]) -> _T:
        """Await something, and cancel it when the deadline passes. Raises DeadlineError then."""
        left_s = None if self.at_s is None else self.at_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await work
        except TimeoutError:
            raise DeadlineError.while_running() from None

    def has_passed(self, now: float) -> bool:
        """Whether it lies before a moment of the monotonic clock."""
        return self.at_s is not None and now >= self.at_s

    def check(self) -> None:
        """Raise DeadlineError if it has passed."""
        if self.at_s is not None and time.monotonic() >= self.at_s:
            raise DeadlineError.before_run()
