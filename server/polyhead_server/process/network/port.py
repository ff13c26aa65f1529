"""The port or socket: its address, whether it is free, and reserving it for several workers.

How a port is reserved, and why two groups of workers never share one:

1. A socket without SO_REUSEPORT binds the port and listens. This fails if any other server has it.
2. SO_REUSEPORT is set, and a second socket binds the same port. Workers, which set SO_REUSEPORT
   too, can bind it from now on.
3. The first socket is closed, because it listens and would receive connections that nobody accepts.
4. The second socket stays bound without listening. SO_REUSEADDR is cleared on it, so that a server
   without SO_REUSEPORT cannot bind the port even while no worker listens.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["address_of", "cannot_listen", "check_address", "claimed_port", "socket_path"]

_SOCKET_SCHEME = "unix:"


def socket_path(host: str) -> str | None:
    """Return the path of unix:PATH or unix:///PATH; None for a network address."""
    if not host.startswith(_SOCKET_SCHEME):
        return None
    path = host.removeprefix(_SOCKET_SCHEME)
    return path.removeprefix("//") if path.startswith("///") else path


def address_of(host: str, port: int) -> str:
    """Write HOST:PORT, or unix:PATH, as clients take it."""
    if socket_path(host) is not None:
        return host
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def cannot_listen(host: str, port: int, error: Exception, flags: str = "") -> StartupError:
    """Make the error for an address that the system refuses.

    ``flags``: those that choose another one; empty: --port and --host.
    """
    reason = "the system refuses it"  # gRPC's error has no reason
    if isinstance(error, OSError):
        reason = (error.strerror or str(error)).rpartition("): ")[2]  # asyncio's has the address
        reason = reason[:1].upper() + reason[1:]
    elif isinstance(error, UnicodeError):
        reason = "this is not the name of a host"
    if not flags:
        flags = "--port (0: any free one) or --host" if socket_path(host) is None else "--host"
    return StartupError(
        f"cannot listen on {address_of(host, port)}: {reason}; choose another {flags}"
    )


def check_address(host: str, port: int) -> None:
    """Raise StartupError if no server can listen there, long before this one does."""
    path = socket_path(host)
    try:
        if path is not None:
            _check_socket(path)
            return
        with _bind_and_listen(*_resolve(host, port)):
            pass
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port, error) from error


def _check_socket(path: str) -> None:
    """Raise OSError unless a socket can be made there.

    gRPC replaces a socket that another server left behind, and one that a server listens on.
    """
    file = Path(path)
    if file.exists() and not file.is_socket():
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        if file.exists():
            with suppress(ConnectionRefusedError):  # a server that has ended left it
                probe.connect(path)
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            return
        probe.bind(path)
    file.unlink()


@contextmanager
def claimed_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port for processes of this user that listen with SO_REUSEPORT; 0: any free one.

    Raises StartupError if another server has it, be it one process or a group of workers.
    """
    with ExitStack() as sockets:
        try:
            keeper = sockets.enter_context(_bind_without_listening(host, port))
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            raise cannot_listen(host, port, error) from error
        yield keeper.getsockname()[1]


def _bind_without_listening(host: str, port: int) -> socket.socket:
    """Make a socket that is bound to the port and does not listen; see the module."""
    family, address = _resolve(host, port)
    with _bind_and_listen(family, address) as claim:  # 1. Fail if another server has the port.
        # 2. Bind the second socket.
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper = socket.socket(family)
        try:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(claim.getsockname())
            # 4. Keep other servers out, even while no worker listens.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            keeper.close()
            raise
        return keeper  # 3. Leaving the block closes the first socket.


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    addresses = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, address = addresses[0]
    return family, address


def _bind_and_listen(family: socket.AddressFamily, address: Any) -> socket.socket:  # noqa: ANN401 - each family has its own
    claim = socket.socket(family)
    try:
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind(address)
        claim.listen()
    except BaseException:
        claim.close()
        raise
    return claim
