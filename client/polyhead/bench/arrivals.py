"""When the requests of an open loop are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyhead.bench.plan import Arrivals

__all__ = ["arrival_times"]

_CHUNK = 4096


def arrival_times(
    rate: float, arrivals: Arrivals, *, seed: int = 0, phase: float = 0.0
) -> Iterator[float]:
    """Give, without end, the seconds after the start at which requests are due.

    ``rate``: requests a second. ``constant``: evenly spaced, the first `phase` of an interval after
    the start. ``poisson``: the gaps are independent and exponentially distributed, so that arrivals
    cluster as those of many independent users do; shares of several processes add up to the same.
    """
    if arrivals == "constant":
        count = 0
        while True:  # each from its number: a running sum would drift
            yield from ((count + np.arange(_CHUNK) + phase) / rate).tolist()
            count += _CHUNK
    generator, last = np.random.default_rng(seed), 0.0
    while True:
        times = last + np.cumsum(generator.exponential(1 / rate, _CHUNK))
        yield from times.tolist()
        last = float(times[-1])
