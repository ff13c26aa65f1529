"""When the requests of an open loop are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.bench.plan import Plan

__all__ = ["arrival_times"]

_CHUNK = 4096


def arrival_times(plan: Plan) -> Iterator[float]:
    """Give the seconds after the measurement's start at which requests are due, in order.

    Those of the warm-up, below 0, come first. Then as many as the rate says: ``constant`` ones
    evenly spaced, the first `phase` of an interval after the start; ``poisson`` ones cluster as
    those of many independent users do; shares of several processes add up to the same.
    """
    assert plan.rate is not None
    before = int(plan.rate * plan.warmup_s)
    count, window_s = plan.schedule
    if plan.arrivals == "constant":
        for number in range(-before, count):  # each from its number: a running sum would drift
            yield (number + plan.phase) / plan.rate
        return
    generator = np.random.default_rng(plan.seed)
    for time in _poisson(before, plan.warmup_s, generator):
        yield time - plan.warmup_s
    yield from _poisson(count, window_s, generator)


def _poisson(count: int, window_s: float, generator: np.random.Generator) -> Iterator[float]:
    """Give the times of a Poisson process that has so many in the window.

    Given their number, they are independent and uniform. A number drawn too would be off by its
    square root, and a run of 250 requests would offer another rate than it says.
    """
    slices = -(-count // _CHUNK)  # sorted one by one, so that a long run is not held in memory
    for index in range(slices):
        inside = generator.binomial(count, 1 / (slices - index))
        count -= inside
        yield from ((index + np.sort(generator.random(inside))) * (window_s / slices)).tolist()
