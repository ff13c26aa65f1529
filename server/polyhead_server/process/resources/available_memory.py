"""The memory that this process may use, and the memory that it uses."""

from __future__ import annotations

import os
from pathlib import Path

from polyhead_server.process.resources.cgroups import CGROUPS, MEMBERSHIP, cgroup_folders

__all__ = ["available_memory", "resident_bytes"]

_STATM = Path("/proc/self/statm")
_FILES = ("memory.max", "memory.limit_in_bytes")
"""Limits of version 2, which is "max" where there is none, and of version 1."""


def available_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes of the machine, or of the smallest limit of this process's cgroups."""
    limits = [_machine_bytes()]
    for folder in cgroup_folders("memory", cgroups, membership):
        for name in _FILES:
            try:
                limits.append(int((folder / name).read_text()))
            except (OSError, ValueError):
                continue
    return min(limit for limit in limits if limit > 0)


def resident_bytes() -> int:
    """Return how much memory this process uses; 0 except on Linux."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # on Windows
        return 1 << 40
