"""How many processors this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["available_cpus"]

_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = _CGROUP) -> int:
    """Count usable CPUs: those of the affinity mask, but no more than the cgroup's quota buys.

    ONNX Runtime's own default counts the machine's, and thrashes in a container with a quota.
    """
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(affine or 1, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """CPUs' worth of time a cgroup grants; infinite if it sets no limit."""
    try:  # version 2: "max 100000" or "150000 100000"
        quota, period = (cgroup / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ArithmeticError, ValueError):
        pass
    try:  # version 1: -1 means no limit
        quota_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return quota_us / period_us if quota_us > 0 < period_us else math.inf
