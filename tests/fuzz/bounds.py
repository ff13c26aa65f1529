"""What one input may cost."""

from __future__ import annotations

import resource
import time

MAX_INPUT_BYTES = 64 << 10
MAX_CPU_S = 0.5
MAX_GROWTH_MIB = 64
"""By how much an input may raise the most memory that the process ever had."""


def bounded(check):
    """Make an input that costs too much time or memory a finding."""

    def bounded_check(data):
        began, before = time.thread_time(), _peak_mib()
        check(data)
        took_s, grown = time.thread_time() - began, _peak_mib() - before
        assert took_s < MAX_CPU_S, f"took {took_s:.2f} s"
        assert grown < MAX_GROWTH_MIB, f"took {grown:.0f} MiB"

    return bounded_check


def _peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
