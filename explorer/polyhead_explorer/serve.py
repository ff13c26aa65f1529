"""Serves the page until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import uvicorn

from polyhead.cli.command import UsageError
from polyhead_explorer.app import make_app
from polyhead_explorer.web.protection import LOOPBACK_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from polyhead import AsyncClient

__all__ = ["address_of", "listen", "make_server", "serve"]


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """Listen for browsers. Raises UsageError if this address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(_listen_error(host, port, error)) from error
    with closing(listener):
        yield listener


def address_of(listener: socket.socket) -> str:
    """Return the page's address for this machine's browser."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::", "127.0.0.1", "::1"):  # noqa: S104 - compared, not listened on
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def make_server(
    connect: Callable[[], AsyncClient], host_names: Collection[str] = ()
) -> uvicorn.Server:
    """Make the server of the page. ``host_names``: names that are allowed besides localhost."""
    bracketed = {f"[{name}]" if ":" in name else name for name in host_names}
    config = uvicorn.Config(
        make_app(connect, LOOPBACK_NAMES | bracketed),
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    return uvicorn.Server(config)


def serve(
    listener: socket.socket,
    connect: Callable[[], AsyncClient],
    host_names: Collection[str],
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, or SIGHUP if it has a handler."""
    server = make_server(connect, host_names)
    hangup = getattr(signal, "SIGHUP", None)  # missing on Windows
    if hangup is not None and callable(signal.getsignal(hangup)):
        signal.signal(hangup, server.handle_exit)  # uvicorn handles the other signals
    with asyncio.Runner() as runner:
        runner.run(server.serve(sockets=[listener]))


def _listen_error(host: str, port: int, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    reason = (reason or str(error)).partition(" (while")[0]  # the address would follow
    return (
        f"the page cannot listen on {host}, port {port}: {reason}. --port 0 takes any free port, "
        "and --host names an address of this machine"
    )
