"""`polyhead explore`."""

from __future__ import annotations

import os
import sys
import webbrowser
from argparse import ArgumentTypeError
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from polyhead.cli.command import Command
from polyhead.cli.shared_arguments import (
    add_security_arguments,
    client_arguments,
    client_errors_name_flags,
)
from polyhead.cli.signals import exit_on_signals

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Show the attention of any layer and head in the browser: type a text, and click.

  polyhead explore                              the built-in river-bank model
  polyhead explore --checkpoint all-MiniLM-L6-v2/
  polyhead explore --models repo                a repository of `polyhead export`
  polyhead explore --server host:50051          a server that runs already

It listens on this machine only, unless --host says otherwise, because anyone who can open the
page can use the server with this command's token. Ctrl-C stops it, and the server that it started.
"""
_PORT = 8400


def _add_arguments(parser: ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="the server to show (default: $POLYHEAD_SERVER, or else it starts one)",
    )
    source.add_argument(
        "--models", type=Path, metavar="REPO", help="start a server of this repository"
    )
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="export a Hugging Face folder into a temporary repository, and start a server of it",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="longest time to wait for a response of the server (default: %(default)g)",
    )
    page = parser.add_argument_group("the page")
    page.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    page.add_argument(
        "--port",
        type=_parse_port,
        default=_PORT,
        help="port to listen on; 0 means any free port (default: %(default)s)",
    )
    page.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="serve the page under this name too; localhost is always allowed",
    )
    page.add_argument("--open", action="store_true", help="open the page in the browser")
    add_security_arguments(parser)


def _parse_port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise ArgumentTypeError(f"expected a port from 0 to 65535; got {text!r}")
    return int(text)


def _run(arguments: Namespace) -> int:
    from polyhead import AsyncClient
    from polyhead_explorer.serve import address_of, listen, serve

    security = client_arguments(arguments)
    remote = arguments.server
    if arguments.models is None and arguments.checkpoint is None:
        remote = remote or os.environ.get("POLYHEAD_SERVER")
    with ExitStack() as stack:
        stack.enter_context(exit_on_signals())
        listener = stack.enter_context(listen(arguments.host, arguments.port))
        if remote:
            connect = partial(AsyncClient, remote, timeout=arguments.timeout, **security)
        else:
            from polyhead_explorer.own_server import own_server

            if arguments.models and arguments.models.is_dir():  # a large one takes minutes
                sys.stderr.write(f"loading the models of {arguments.models}\n")
            target = stack.enter_context(own_server(arguments.models, arguments.checkpoint))
            connect = partial(AsyncClient, target, timeout=arguments.timeout)
        with client_errors_name_flags():
            connect()
        address = address_of(listener)
        server = remote or "its own server"
        sys.stdout.write(f"explore  {address}    {server}; Ctrl-C stops it\n")
        sys.stdout.flush()
        if arguments.open:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):
            serve(listener, connect, {arguments.host, *arguments.allow_host})
    return 0


COMMAND = Command(
    help="see any layer's and head's attention in the browser",
    description=_DESCRIPTION,
    extra="explore",
    add_arguments=_add_arguments,
    run=_run,
)
