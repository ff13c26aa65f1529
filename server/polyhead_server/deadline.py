"""The deadline of a call."""

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
    """The time at which the caller stops waiting, on the monotonic clock."""

    at_s: float | None
    """None means no limit."""

    @classmethod
    def after(cls, remaining_s: float | None) -> Deadline:
        """Make a deadline ``remaining_s`` seconds from now; None means no limit."""
        return cls(None if remaining_s is None else time.monotonic() + remaining_s)

    def or_after(self, remaining_s: float) -> Deadline:
        """Return this deadline, or the one ``remaining_s`` seconds from now if it is earlier."""
        at_s = time.monotonic() + remaining_s
        return self if self.at_s is not None and self.at_s <= at_s else Deadline(at_s)

    async def ends(self, work: Awaitable[_T]) -> _T:
        """Await ``work``. If the deadline passes before, cancel it and raise DeadlineError."""
        left_s = None if self.at_s is None else self.at_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await work
        except TimeoutError:
            raise DeadlineError.while_running() from None

    def has_passed(self, now: float) -> bool:
        """Whether the deadline had passed at a time of the monotonic clock."""
        return self.at_s is not None and now >= self.at_s

    def check(self) -> None:
        """Raise DeadlineError if the deadline has passed."""
        if self.at_s is not None and time.monotonic() >= self.at_s:
            raise DeadlineError.before_run()
