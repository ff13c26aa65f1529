"""How many runs may go on at once."""

from __future__ import annotations

__all__ = ["RunSlots"]


class RunSlots:
    """Counts the runs that go on: short ones, long ones, and those that nobody wants any more.

    A run begins if fewer than ``num_slots`` go on; a short one also if fewer than ``num_slots``
    short ones do. So a call of milliseconds never waits for one of seconds: the two share the CPU.

    A long run can be ended only between two nodes of its graph, and a node may take seconds. So the
    slot of a run that nobody wants is given to the next one, to at most ``num_slots`` at a time.
    """

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._num_going_on = {True: 0, False: 0}
        """Number of short runs and of long ones."""
        self._num_abandoned = 0

    @property
    def num_taken(self) -> int:
        """How many slots are taken."""
        return sum(self._num_going_on.values())

    def is_free(self, *, is_short: bool) -> bool:
        """Whether a run may begin."""
        num_short, num_long = self._num_going_on[True], self._num_going_on[False]
        return num_short + (0 if is_short else num_long) < self._num_slots

    def take(self, *, is_short: bool) -> None:
        """Note that a run begins."""
        self._num_going_on[is_short] += 1

    def give_back(self, *, is_short: bool) -> None:
        """Note that a run has ended."""
        self._num_going_on[is_short] -= 1

    def abandon(self, *, is_short: bool) -> bool:
        """Give back the slot of a run that goes on unwanted; False if too many do already."""
        if self._num_abandoned >= self._num_slots:
            return False
        self._num_abandoned += 1
        self.give_back(is_short=is_short)
        return True

    def end_abandoned(self) -> None:
        """Note that an abandoned run has ended."""
        self._num_abandoned -= 1
