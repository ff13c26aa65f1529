"""Arguments that several subcommands share."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from contextlib import contextmanager
from typing import TYPE_CHECKING

from polyhead.cli.command import UsageError
from polyhead.errors import InvalidArgumentError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator

    from polyhead import Client
    from polyhead.types import LayerKey

__all__ = [
    "add_server_arguments",
    "errors_name_flags",
    "open_client",
    "parse_indices",
    "parse_layers",
]

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
        help="longest time to wait for a response (default: %(default)g)",
    )


def open_client(arguments: Namespace) -> Client:
    """Make a client from --server and --timeout. Raises InvalidArgumentError."""
    from polyhead import Client

    return Client(arguments.server, timeout=arguments.timeout)


def parse_indices(text: str) -> tuple[int, ...]:
    """Parse ``0,2``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"expected numbers such as 0,2; got {text!r}") from None


def parse_layers(text: str) -> tuple[LayerKey, ...]:
    """Parse ``3,5`` or ``encoder:3,cross:5``."""
    layers: list[LayerKey] = []
    for part in text.split(","):
        stack, colon, number = part.strip().rpartition(":")
        if not number.isdecimal() or bool(colon) != bool(stack):
            raise ArgumentTypeError(f"expected layers such as 3,5 or cross:3; got {text!r}")
        layers.append((stack, int(number)) if stack else int(number))
    return tuple(layers)


@contextmanager
def errors_name_flags(flag_of: Callable[[str], str | None]) -> Iterator[None]:
    """Turn errors about a flag's value into a UsageError that names the flag.

    ``flag_of``: finds the flag that sets a field of the request, by the field's path.
    """
    try:
        yield
    except InvalidArgumentError as error:
        flag = flag_of(next(iter(error.fields), ""))
        if flag is None:
            raise
        raise UsageError(f"{flag}: {str(error).partition(': ')[2]}") from error
