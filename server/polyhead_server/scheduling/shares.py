"""How much computing each caller had, so that the next turn goes to the one that had the least."""

from __future__ import annotations

__all__ = ["CallerShares"]

_MAX_CALLERS = 1024
"""Callers with so many more names than are needed are forgotten; see `charge`."""


class CallerShares:
    """Seconds of computing by caller, counted from a floor that rises with each turn.

    The floor is what the caller that had the last turn had before it. A caller that comes, or comes
    back after a pause, starts there: it saved no turns, and owes none.
    """

    def __init__(self) -> None:
        self._floor = 0.0
        self._used: dict[str, float] = {}
        self._next_cleanup = _MAX_CALLERS

    def used(self, caller: str) -> float:
        """Return the seconds that count for a caller."""
        return max(self._used.get(caller, 0.0), self._floor)

    def begin_turn(self, caller: str) -> None:
        """Note that a caller has its turn. It must be one of those that had the least."""
        self._floor = self.used(caller)

    def charge(self, caller: str, seconds: float) -> None:
        """Add to what a caller had. Callers at the floor are forgotten now and then."""
        self._used[caller] = self.used(caller) + seconds
        if len(self._used) > self._next_cleanup:
            self._used = {name: used for name, used in self._used.items() if used > self._floor}
            self._next_cleanup = 2 * len(self._used) + _MAX_CALLERS
