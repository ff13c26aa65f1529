"""The port: how it is written, what a refusal says, and how several processes come to share it."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["address_of", "cannot_listen", "claimed_port"]


def address_of(host: str, port: int) -> str:
    """HOST:PORT, as clients take it."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def cannot_listen(host: str, port: int) -> StartupError:
    """What to raise where the system refuses an address."""
    return StartupError(
        f"cannot listen on {address_of(host, port)}: the port is taken or the address is not this "
        "machine's; choose another --port (0: any free one) or --host"
    )


@contextmanager
def claimed_port(host: str, port: int) -> Iterator[int]:
    """Keep a port for processes of this user that listen with SO_REUSEPORT; 0: any free one.

    Raises StartupError if any server has it, be it one process or a group like this.
    """
    with ExitStack() as sockets:
        try:
            keeper = sockets.enter_context(_bind_without_listening(host, port))
        except (OSError, UnicodeError) as error:  # UnicodeError: no host's name
            raise cannot_listen(host, port) from error
        yield keeper.getsockname()[1]


def _bind_without_listening(host: str, port: int) -> socket.socket:
    """A socket that is bound to the port and does not listen."""
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, address = found[0]
    with socket.socket(family) as claim:
        # Only who listens without SO_REUSEPORT is sure to be the only one, ...
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.bind(address)
        claim.listen()
        # ... but clients would connect here. So the port goes over to a socket that is bound and
        # does not listen: workers may join it from now on, ...
        claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper = socket.socket(family)
        try:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(claim.getsockname())
            # ... and no other server may, even while none of them listens.
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except BaseException:
            keeper.close()
            raise
        return keeper
