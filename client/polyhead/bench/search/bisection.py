"""The search algorithm: doubling, bisection, verification. It knows nothing of servers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIRST_RATE", "MAX_STEPS", "MIN_REQUESTS", "SearchResult", "Step", "find_max"]

FIRST_RATE = 50.0
"""Requests per second at which a search starts by default."""
MAX_STEPS = 40
"""Most runs of a search; it then ends without a result."""
MIN_REQUESTS = 200
"""Smallest number of requests in a run, so that two of them are above its p99."""
_NUM_VERIFICATIONS = 2
"""Runs that must be within, of at most one more."""
_LOWEST_RATE = 1.0
"""Lowest rate tried: at lower ones a run would last minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One run of the search."""

    rate: float
    """Requests due per second."""
    p99_ms: float | None
    """Counts from when requests were due; None if no request was answered."""
    failed: int
    """Number of requests that failed."""
    is_within: bool
    """Whether p99 was within the objective and no request failed."""
    is_cut_short: bool
    """Whether the run was ended early because it could no longer be within; p99 is partial."""
    purpose: str
    """``doubling``, ``halving``, ``bisection`` or ``verification``."""
    reason: str = ""
    """Why the run was not within the objective; empty if it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """The result of a search."""

    rate: float | None
    """The highest rate within the objective, verified; None if no rate was within it, or if the
    search is incomplete."""
    steps: tuple[Step, ...]
    """All runs, in order."""
    is_complete: bool
    """Whether the search finished, and was not ended by Ctrl-C or MAX_STEPS."""


class _SearchEndedError(Exception):
    """The search was interrupted, or has used up its steps."""


def find_max(
    measure: Callable[[float, str, int], Step | None], *, first_rate: float, precision: float
) -> SearchResult:
    """Find the highest rate whose runs are within the objective.

    ``measure(rate, purpose, num_left)`` carries out one run, after which at least ``num_left``
    others follow; if it returns None, the run was interrupted and the search ends. The bisection
    ends when the highest rate within and the lowest beyond differ by ``precision``, a share of the
    latter. The rate within is then verified: two of at most three further runs must be within.
    Otherwise the search continues below it and verifies every rate.
    """
    steps: list[Step] = []

    def run(rate: float, purpose: str, num_left: int) -> bool:
        step = measure(rate, purpose, num_left) if len(steps) < MAX_STEPS else None
        if step is None:
            raise _SearchEndedError
        steps.append(step)
        return step.is_within

    def is_within(rate: float, purpose: str, num_left: int) -> bool:
        # again, because one hiccup must not decide
        return run(rate, purpose, num_left) or run(rate, purpose, num_left)

    def is_in_bracket(rate: float, purpose: str) -> bool:
        # Either bisection and verification follow, or no lower rate is within.
        num_found = _num_halvings(0.5, 1.0, precision) + _NUM_VERIFICATIONS
        num_lower = 2 * max(0, math.floor(math.log2(rate / _LOWEST_RATE)))
        return is_within(rate, purpose, min(num_found, num_lower))

    def is_in_gap(rate: float, num_left: int) -> bool:
        return is_within(rate, "bisection", num_left + _NUM_VERIFICATIONS)

    def is_verified(rate: float, num_left: int = 0) -> bool:
        num_left *= _NUM_VERIFICATIONS
        first = run(rate, "verification", num_left + 1)
        second = run(rate, "verification", num_left)
        return run(rate, "verification", num_left) if first != second else first

    try:
        low, high = _bracket(is_in_bracket, first_rate)
        if low:
            low, _ = _bisect(is_in_gap, low, high, precision)
            if not is_verified(low):
                low, high = _step_down(is_verified, low, precision)
                low, _ = _bisect(is_verified, low, high, precision)
    except _SearchEndedError:
        return SearchResult(rate=None, steps=tuple(steps), is_complete=False)
    return SearchResult(rate=low or None, steps=tuple(steps), is_complete=True)


def _bracket(is_within: Callable[[float, str], bool], rate: float) -> tuple[float, float]:
    """Find rates within and beyond, a factor of two apart; (0, rate) if none is within."""
    if not is_within(rate, "doubling"):
        return _bracket_below(is_within, rate)
    while is_within(rate * 2, "doubling"):
        rate *= 2
    return rate, rate * 2


def _bracket_below(is_within: Callable[[float, str], bool], high: float) -> tuple[float, float]:
    """Search in the same way below `high`, which is beyond."""
    while high / 2 >= _LOWEST_RATE:
        if is_within(high / 2, "halving"):
            return high / 2, high
        high /= 2
    return 0.0, high


def _step_down(
    is_verified: Callable[[float], bool], high: float, share: float
) -> tuple[float, float]:
    """Find a verified rate below `high`, in steps that start at this share of it and double."""
    while (low := high * (1 - share)) >= _LOWEST_RATE:
        if is_verified(low):
            return low, high
        high, share = low, min(2 * share, 0.5)
    return 0.0, high


def _bisect(
    is_within: Callable[[float, int], bool], low: float, high: float, precision: float
) -> tuple[float, float]:
    """Narrow the gap between rates within and beyond to `precision` of the latter.

    ``is_within(rate, num_left)``: at least ``num_left`` others are asked about after it. Returns
    (0, high) unchanged: no rate is within.
    """
    while low and high - low > precision * high:
        middle = (low + high) / 2
        if is_within(middle, _num_halvings(middle, high, precision)):
            low = middle
        else:
            high = middle
    return low, high


def _num_halvings(low: float, high: float, precision: float) -> int:
    """Return how often a gap must be halved until it is `precision` of the higher rate."""
    return max(0, math.ceil(math.log2((high - low) / (precision * high))))
