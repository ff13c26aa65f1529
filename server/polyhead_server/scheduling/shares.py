"""The computing time of each caller. The next turn goes to the caller with the least."""

from __future__ import annotations

__all__ = ["CallerShares"]

_CLEANUP_AFTER_CALLERS = 1024
"""Callers at the floor are dropped when at least so many have been added; see `charge`."""


class CallerShares:
    """Seconds of computing time by caller, counted from a floor that rises with each turn.

    The floor is the time of the last turn's caller, before that turn. A caller that is new, or
    returns after a pause, starts at the floor. So a pause brings neither an advantage nor a debt.
    """

    def __init__(self) -> None:
        self._floor = 0.0
        self._seconds: dict[str, float] = {}
        self._next_cleanup = _CLEANUP_AFTER_CALLERS

    def used(self, caller: str) -> float:
        """Return a caller's computing time, at least the floor."""
        return max(self._seconds.get(caller, 0.0), self._floor)

    def begin_turn(self, caller: str) -> None:
        """Raise the floor for a caller's turn. No waiting caller may have less computing time."""
        self._floor = self.used(caller)

    def charge(self, caller: str, seconds: float) -> None:
        """Add to a caller's computing time. Now and then callers at the floor are dropped."""
        self._seconds[caller] = self.used(caller) + seconds
        if len(self._seconds) > self._next_cleanup:
            self._seconds = {
                name: used for name, used in self._seconds.items() if used > self._floor
            }
            self._next_cleanup = 2 * len(self._seconds) + _CLEANUP_AFTER_CALLERS
