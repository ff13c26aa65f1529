"""Limits how many runs go on at once."""

from __future__ import annotations

__all__ = ["RunSlots"]


class RunSlots:
    """Counts the runs that go on: short ones, long ones, and abandoned ones.

    A long run may begin if fewer than ``num_slots`` runs go on, a short run if fewer than
    ``num_slots`` short runs go on. So a call of milliseconds never waits for one of seconds; the
    two share the CPU.

    A run is abandoned when all its callers have cancelled. It can end only between two nodes of
    its graph, and a node may take seconds. So its slot is given to the next run at once. At most
    ``num_slots`` runs are abandoned at a time.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._num_going_on = {True: 0, False: 0}
        """Number of short runs under True, of long runs under False."""
        self._num_abandoned = 0

    @property
    def num_taken(self) -> int:
        """Number of taken slots."""
        return sum(self._num_going_on.values())

    def is_free(self, *, is_short: bool) -> bool:
        """Whether a run may begin."""
        num_short, num_long = self._num_going_on[True], self._num_going_on[False]
        return num_short + (0 if is_short else num_long) < self._num_slots

    def take(self, *, is_short: bool) -> None:
        """Take a slot for a run that begins."""
        self._num_going_on[is_short] += 1

    def give_back(self, *, is_short: bool) -> None:
        """Give back the slot of a run that has ended."""
        self._num_going_on[is_short] -= 1

    def abandon(self, *, is_short: bool) -> bool:
        """Give back the slot of a run that goes on; False if too many runs are abandoned."""
        if self._num_abandoned >= self._num_slots:
            return False
        self._num_abandoned += 1
        self.give_back(is_short=is_short)
        return True

    def end_abandoned(self) -> None:
        """Count off an abandoned run that has ended."""
        self._num_abandoned -= 1
