"""The cgroups of this process, whose limits all hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CGROUPS", "MEMBERSHIP", "cgroup_folders"]

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cgroup_folders(controller: str, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all its parents.

    In a container the root folder is the container's own cgroup. The path to it may be the host's,
    which does not exist there, so the root is always included.

    ``controller``: "cpu" or "memory", which has a tree of its own in version 1.
    """
    yield from (cgroups, cgroups / controller)
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:  # version 2: "0::/path"; version 1: "4:cpu,cpuacct:/path"
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controller if controllers else cgroups
        group = root / path.strip("/")
        yield from (group, *(above for above in group.parents if root in above.parents))
