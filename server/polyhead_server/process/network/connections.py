"""Counts the connected clients, and ends their connections, by asking the kernel."""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from polyhead_server.rpc.open_calls import peer_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "by_address",
    "cut_connections",
    "end_connections",
    "listeners",
    "num_by_address",
    "num_connections",
    "num_descriptors",
    "peers_connected",
]

_SELF = Path("/proc/self")
_DESCRIPTORS = "/proc/self/fd"
_ESTABLISHED, _ENDED_BY_PEER = "01", "08"
_MAX_UNREAD_BYTES = 1 << 20


def num_connections(local: int | str) -> int:
    """Count this process's established connections to a local port, or to the socket of a path.

    0 except on Linux.

    /proc/self/net/tcp lists the sockets of all processes, and other workers may share the port. So
    only sockets that this process has open are counted: those that a link in /proc/self/fd names.
    """
    if isinstance(local, str):
        return sum(1 for _ in _socket_connections(local))
    sockets = _own_sockets()
    rows = _rows(local, {_ESTABLISHED})
    return sum(inode in sockets for _, inode in rows)


def num_by_address(port: int) -> Counter[str]:
    """Count the connections to a local port by address.

    Those of other workers count too, and those that their peers have ended, whose calls may be
    unread. None except on Linux. This reads two files, however many connections there are, while a
    look at each descriptor takes seconds on a busy machine.
    """
    counts: Counter[str] = Counter()
    rows = _rows(port, {_ESTABLISHED, _ENDED_BY_PEER})
    for digits, count in Counter(remote for remote, _ in rows).items():
        counts[peer_address(_name((_unpacked(digits), 0)))] += count
    return counts


def end_connections(local: int | str, busy: set[str]) -> None:
    """End sending on its connections to a local port, or to the socket of a path.

    Nothing except on Linux. What has been written still arrives. ``busy``: gRPC's names of peers,
    such as "ipv4:10.0.0.7:50412", whose connections are left alone. Peers of a socket of a path
    have no names of their own, so all are left alone if there is any.
    """
    if isinstance(local, str):
        for connection in () if busy else _socket_connections(local):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
        return
    left_alone = {
        _address(*rest.rsplit(":", 1))
        for scheme, _, rest in (peer.partition(":") for peer in busy)
        if scheme in {"ipv4", "ipv6"}  # a peer that has gone has no name
    }
    for _, connection, peer in _port_connections(local):
        if peer not in left_alone:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)


def num_descriptors() -> int:
    """Count what this process has open, its connections included; 0 except on Linux."""
    try:
        return len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - objects of paths take much longer
    except OSError:
        return 0


def peers_connected(port: int) -> dict[str, int]:
    """Return the peers of this process's connections to a local port, and their descriptors.

    Peers are named as gRPC does. None except on Linux.
    """
    return {_name(peer): descriptor for descriptor, _, peer in _port_connections(port)}


def by_address(peers: Iterable[str]) -> defaultdict[str, list[str]]:
    """Group peers, as gRPC names them, by their addresses."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for peer in peers:
        groups[peer_address(peer)].append(peer)
    return groups


def cut_connections(peers: dict[str, int]) -> None:
    """End connections at once, and discard the calls that they sent and gRPC has not read.

    ``peers``: some of the last result of peers_connected.
    """
    unread = bytearray(_MAX_UNREAD_BYTES)
    for peer, descriptor in peers.items():
        with suppress(OSError), _copy_of(descriptor) as connection:
            if _name(_address(*connection.getpeername()[:2])) == peer:  # it may be another's by now
                with suppress(BlockingIOError):
                    connection.recv_into(unread, flags=socket.MSG_DONTWAIT)
                connection.shutdown(socket.SHUT_RDWR)


def listeners(port: int) -> Iterator[socket.socket]:
    """Yield a copy of each socket of this process that listens on a local port.

    Each is open until the next. None except on Linux.
    """
    for descriptor in _own_descriptors():
        with suppress(OSError), _copy_of(descriptor) as listener:
            is_inet = listener.family in {socket.AF_INET, socket.AF_INET6}
            is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if is_inet and is_listening and listener.getsockname()[1] == port:
                yield listener


def _rows(port: int, states: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the connections to a port in these states: the peer's address, the link's target."""
    suffix = f":{port:04X} "
    for table in (_SELF / "net/tcp", _SELF / "net/tcp6"):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            if suffix in row:  # most rows are those of other ports
                _, local, remote, state, *_ = columns = row.split()
                if state in states and local.endswith(suffix[:-1]):
                    yield remote.partition(":")[0], f"socket:[{columns[9]}]"


def _unpacked(digits: str) -> str:
    """Return the address that the kernel's tables have as words in the order of this machine."""
    packed = b"".join(
        int(digits[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(digits), 8)
    )
    return _without_ipv6(ip_address(packed))


@contextmanager
def _copy_of(descriptor: int) -> Iterator[socket.socket]:
    """Copy a socket. Raises OSError if the descriptor is closed, or a file's by now."""
    copy = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with connection:
        yield connection


def _name(peer: tuple[str, int]) -> str:
    host, port = peer
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _port_connections(port: int) -> Iterator[tuple[int, socket.socket, tuple[str, int]]]:
    """Yield the descriptors of this process's connections to a local port, each with its peer.

    Between them is a copy of the connection, which is open until the next.
    """
    for descriptor in _own_descriptors():
        with suppress(OSError), _copy_of(descriptor) as connection:
            is_ours = connection.family in {socket.AF_INET, socket.AF_INET6}
            if is_ours and connection.getsockname()[1] == port:
                host, peer_port = connection.getpeername()[:2]  # raises for a listening socket
                yield descriptor, connection, _address(host, peer_port)


def _socket_connections(path: str) -> Iterator[socket.socket]:
    """Yield this process's connections to the socket of a path, each open until the next."""
    for descriptor in _own_descriptors():
        with suppress(OSError), _copy_of(descriptor) as connection:
            if connection.family == socket.AF_UNIX and connection.getsockname() == path:
                connection.getpeername()  # raises for a listening socket
                yield connection


def _address(host: str, port: str | int) -> tuple[str, int]:
    """Return host and port in one form, however they were written."""
    return _without_ipv6(ip_address(unquote(host).strip("[]").partition("%")[0])), int(port)


def _without_ipv6(address: IPv4Address | IPv6Address) -> str:
    """Write an address; an IPv4 address of a socket that takes both kinds, as one of IPv4."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _own_descriptors() -> list[int]:
    """Return the numbers of the sockets that this process has open."""
    found = []
    with suppress(OSError):
        for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - objects of paths take much longer
            with suppress(OSError):  # it was closed meanwhile
                if os.readlink(f"{_DESCRIPTORS}/{name}").startswith("socket:"):  # noqa: PTH115
                    found.append(int(name))
    return found


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
