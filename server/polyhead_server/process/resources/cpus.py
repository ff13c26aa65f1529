"""Counts the CPUs that this process may use."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from polyhead_server.process.resources.cgroups import CGROUPS, MEMBERSHIP, cgroup_folders

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["available_cpus"]


def available_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Count the usable CPUs: those of the affinity mask, at most as many as the cgroup's quota.

    ONNX Runtime by default starts a thread for each CPU of the machine. In a container with a
    quota that is too many, and the kernel stops all of them when the quota is used up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = (_quota(folder) for folder in cgroup_folders("cpu", cgroups, membership))
    return max(1, math.ceil(min(allowed or 1, *quotas, math.inf)))


def _quota(group: Path) -> float:
    """Return how many CPUs' time one cgroup grants; infinite if it sets no limit."""
    try:  # version 2: "max 100000" or "150000 100000"
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ArithmeticError, ValueError):
        pass
    try:  # version 1: -1 means no limit
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        period_us = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
    return quota_us / period_us if quota_us > 0 < period_us else math.inf
