"""Counts the CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_cpus"]

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cpus(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Count the usable CPUs: those of the affinity mask, at most as many as the cgroup's quota.

    ONNX Runtime by default starts a thread for each CPU of the machine. In a container with a
    quota that is too many, and the kernel stops all of them when the quota is used up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = (_quota(folder) for folder in _cgroup_folders(cgroups, membership))
    return max(1, math.ceil(min(allowed or 1, *quotas, math.inf)))


def _cgroup_folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all its parents, because all limits hold.

    In a container the root folder is the container's own cgroup. The path to it may be the host's,
    which does not exist there, so the root is always included.
    """
    yield from (cgroups, cgroups / "cpu")
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:  # version 2: "0::/path"; version 1: "4:cpu,cpuacct:/path"
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / "cpu" if controllers else cgroups
        group = root / path.strip("/")
        yield from (group, *(above for above in group.parents if root in above.parents))


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
