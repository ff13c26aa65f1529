"""The port: writing its address, and reserving it for several worker processes.

How a port is reserved, and why two groups of workers never share one:

1. A socket without SO_REUSEPORT binds the port and listens. This fails if any other server has it.
2. SO_REUSEPORT is set, and a second socket binds the same port. Workers, which set SO_REUSEPORT
   too, can bind it from now on.
3. The first socket is closed, because it listens and would receive connections that nobody accepts.
4. The second socket stays bound without listening. SO_REUSEADDR is cleared on it, so that a server
   without SO_REUSEPORT cannot bind the port even while no worker listens.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["address_of", "cannot_listen", "check_port", "claimed_port"]


def address_of(host: str, port: int) -> str:
    """Write HOST:PORT as clients take it."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def cannot_listen(host: str, port: int) -> StartupError:
    """Make the error for an address that the system refuses."""
    return StartupError(
        f"cannot listen on {address_of(host, port)}: the port is taken or the address is not this "
        "machine's; choose another --port (0: any free one) or --host"
    )


def check_port(host: str, port: int) -> None:
    """Raise StartupError if no server can listen there, long before this one does."""
    try:
        with _bind_and_listen(*_resolve(host, port)):
            pass
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port) from error


@contextmanager
def claimed_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port for processes of this user that listen with SO_REUSEPORT; 0: any free one.

    Raises StartupError if another server has it, be it one process or a group of workers.
    """
    with ExitStack() as sockets:
        try:
            keeper = sockets.enter_context(_bind_without_listening(host, port))
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            raise cannot_listen(host, port) from error
        yield keeper.getsockname()[1]


def _bind_without_listening(host: str, port: int) -> socket.socket:
    """Make a socket that is bound to the port and does not listen. The module says how."""
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
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, address = found[0]
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
