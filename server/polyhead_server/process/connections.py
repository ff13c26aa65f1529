"""Counts the connected clients, by asking the kernel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["num_connections"]

_SELF = Path("/proc/self")
_ESTABLISHED = "01"


def num_connections(port: int) -> int:
    """Count this process's established TCP connections to a local port; 0 except on Linux.

    /proc/self/net/tcp lists the sockets of all processes, and other workers may share the port. So
    only sockets that this process has open are counted: those that a link in /proc/self/fd names.
    """
    sockets = _own_sockets()
    count = 0
    for table in (_SELF / "net/tcp", _SELF / "net/tcp6"):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local_address, _, state, *_ = columns = row.split()
            local_port = int(local_address.rpartition(":")[2], 16)
            is_ours = f"socket:[{columns[9]}]" in sockets
            count += state == _ESTABLISHED and local_port == port and is_ours
    return count


def _own_sockets() -> set[str]:
    """Return the link targets of this process's open files, such as "socket:[12345]"."""
    links = set()
    try:
        for descriptor in (_SELF / "fd").iterdir():
            try:
                links.add(str(descriptor.readlink()))
            except OSError:  # it was closed meanwhile
                continue
    except OSError:
        pass
    return links
