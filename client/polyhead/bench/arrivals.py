"""The times at which an open loop's requests are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.bench.plan import Plan

__all__ = ["arrival_times"]

_CHUNK = 4096


def arrival_times(plan: Plan) -> Iterator[float]:
    """Yield due times in order: seconds after the measurement's start, negative in the warm-up.

    The measurement has exactly as many requests as the rate asks for. ``constant`` arrivals are
    evenly spaced, the first one `phase` intervals after the start. ``poisson`` arrivals cluster as
    those of many independent users do. The shares of several processes add up to the same process.
    """
    assert plan.rate is not None
    num_warmup = int(plan.rate * plan.warmup_s)
    count, window_s = plan.schedule
    if plan.arrivals == "constant":
        for number in range(-num_warmup, count):  # multiplied out: a running sum would drift
            yield (number + plan.phase) / plan.rate
        return
    generator = np.random.default_rng(plan.seed)
    for time in _poisson(num_warmup, plan.warmup_s, generator):
        yield time - plan.warmup_s
    yield from _poisson(count, window_s, generator)


def _poisson(count: int, window_s: float, generator: np.random.Generator) -> Iterator[float]:
    """Yield `count` sorted times of a Poisson process within the window.

    Given their count, the times are independent and uniform. The count is not drawn, because its
    standard deviation is its square root: a run of 250 requests would miss its rate by 6 %.
    """
    slices = -(-count // _CHUNK)  # drawn and sorted in slices, to bound the memory of a long run
    for index in range(slices):
        inside = generator.binomial(count, 1 / (slices - index))
        count -= inside
        yield from ((index + np.sort(generator.random(inside))) * (window_s / slices)).tolist()
