"""What every subcommand that calls a server has in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead import Client

__all__ = ["add_server_arguments", "open_client"]

_VARIABLE = "POLYHEAD_SERVER"
_DEFAULT = "localhost:50051"


def add_server_arguments(parser: ArgumentParser, *, timeout_s: float) -> None:
    """Declare --server and --timeout."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get(_VARIABLE) or _DEFAULT,
        help=f"where the server is (default: ${_VARIABLE}, or else {_DEFAULT})",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=timeout_s,
        help="longest time to wait for an answer (default: %(default)g)",
    )


def open_client(arguments: Namespace) -> Client:
    """Make the client that those arguments ask for. Raises InvalidArgumentError."""
    from polyhead import Client

    return Client(arguments.server, timeout=arguments.timeout)
