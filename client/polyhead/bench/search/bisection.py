"""The search for the highest rate that a server keeps up with: doubling, then bisection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIRST_RATE", "MAX_STEPS", "MIN_REQUESTS", "Search", "Step", "find_max"]

FIRST_RATE = 50.0
"""Requests a second that a search starts with unless told otherwise."""
MAX_STEPS = 40
"""A search ends after so many runs, whatever it has found."""
MIN_REQUESTS = 200
"""Requests of a run, so that two of them are above its p99."""
_LOWEST_RATE = 1.0
"""Below it, a run would last minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One run of the search."""

    rate: float
    """Requests a second that were due."""
    p99_ms: float | None
    """From when requests were due; None if none was answered."""
    failed: int
    """Requests that failed."""
    is_within: bool
    """Whether p99 was within the objective, with no errors."""
    is_cut_short: bool
    """Whether the run was ended as soon as it had certainly failed; p99 is that of its part."""
    purpose: str
    """``doubling``, ``halving``, ``bisection`` or ``verification``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What a search found."""

    rate: float | None
    """The highest rate within the objective, verified; None if there was none, or if the
    search was not completed."""
    steps: tuple[Step, ...]
    """Every run, in order."""
    is_complete: bool
    """Whether it ended by itself, and not by Ctrl-C or after MAX_STEPS."""


class _EndedError(Exception):
    """The search was interrupted, or has taken all the steps it may."""


def find_max(
    measure: Callable[[float, str], Step | None], *, first_rate: float, precision: float
) -> Search:
    """Find the highest rate whose runs are within the objective.

    ``measure(rate, purpose)`` makes a run; None: it was interrupted, and the search ends there.
    ``precision``: the bisection ends when a rate within and one beyond differ by this share of the
    latter. The rate within is then verified: two of at most three further runs have to be within
    too. Where they are not, the search goes on below it, and every rate it tries is verified.
    """
    steps: list[Step] = []

    def run(rate: float, purpose: str) -> bool:
        step = measure(rate, purpose) if len(steps) < MAX_STEPS else None
        if step is None:
            raise _EndedError
        steps.append(step)
        return step.is_within

    def is_within(rate: float, purpose: str) -> bool:
        return run(rate, purpose) or run(rate, purpose)  # one hiccup does not decide

    def is_verified(rate: float) -> bool:
        first, second = run(rate, "verification"), run(rate, "verification")
        return run(rate, "verification") if first != second else first

    try:
        low, high = _bracket(is_within, first_rate)
        if low:
            low, _ = _bisected(lambda rate: is_within(rate, "bisection"), low, high, precision)
            if not is_verified(low):
                low, high = _stepped_down(is_verified, low, precision)
                low, _ = _bisected(is_verified, low, high, precision)
    except _EndedError:
        return Search(rate=None, steps=tuple(steps), is_complete=False)
    return Search(rate=low or None, steps=tuple(steps), is_complete=True)


def _bracket(is_within: Callable[[float, str], bool], rate: float) -> tuple[float, float]:
    """Find a rate within and one beyond, a factor of two apart; (0, rate): none is within."""
    if not is_within(rate, "doubling"):
        return _halved(is_within, rate)
    while is_within(rate * 2, "doubling"):
        rate *= 2
    return rate, rate * 2


def _halved(is_within: Callable[[float, str], bool], high: float) -> tuple[float, float]:
    """Find the same below a rate that is beyond."""
    while high / 2 >= _LOWEST_RATE:
        if is_within(high / 2, "halving"):
            return high / 2, high
        high /= 2
    return 0.0, high


def _stepped_down(
    is_verified: Callable[[float], bool], high: float, share: float
) -> tuple[float, float]:
    """Find a rate below one that is beyond, in steps of this share of it that double."""
    while (low := high * (1 - share)) >= _LOWEST_RATE:
        if is_verified(low):
            return low, high
        high, share = low, min(2 * share, 0.5)
    return 0.0, high


def _bisected(
    is_within: Callable[[float], bool], low: float, high: float, precision: float
) -> tuple[float, float]:
    """Bring a rate within and one beyond so close that they differ by `precision` of the latter.

    Leaves (0, high) as it is: none is within.
    """
    while low and high - low > precision * high:
        middle = (low + high) / 2
        if is_within(middle):
            low = middle
        else:
            high = middle
    return low, high
