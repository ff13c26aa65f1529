"""Arguments that several subcommands share."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, BooleanOptionalAction
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead.cli.command import UsageError
from polyhead.cli.servers.this_server import own_address, own_tls
from polyhead.errors import InvalidArgumentError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from polyhead import Client
    from polyhead.types import LayerKey, TLSConfig

__all__ = [
    "add_security_arguments",
    "add_server_arguments",
    "client_arguments",
    "client_errors_name_flags",
    "errors_name_flags",
    "open_client",
    "parse_indices",
    "parse_layers",
]

_VARIABLE = "POLYHEAD_SERVER"
_PREFIX = "POLYHEAD_CLIENT_"
"""Begins the flags' variables, because POLYHEAD_TLS_CERT and others belong to the server."""
_SECURITY_FLAGS = (
    ("--tls-ca", "FILE", "PEM file of the authorities to trust instead of the usual ones"),
    ("--tls-cert", "FILE", "PEM file of this client's certificate, if the server asks for one"),
    ("--tls-key", "FILE", "PEM file of that certificate's private key"),
    ("--tls-server-name", "NAME", "name in the server's certificate, if it is not the host's"),
    ("--token-file", "FILE", "file that holds the token; or set $POLYHEAD_TOKEN to the token"),
)
_CLIENT_FLAGS = {
    "target": "--server",
    "connections": "--connections",
    "timeout": "--timeout",
    "metadata": "--header",
    "tls": "--tls",
    "tls.root_certificates": "--tls-ca",
    "tls.certificate_chain": "--tls-cert",
    "tls.private_key": "--tls-key",
}
"""The flags that set a client's arguments, for error messages."""


def add_server_arguments(parser: ArgumentParser, *, timeout_s: float) -> None:
    """Declare --server, --timeout, and the flags of TLS and of the token."""
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get(_VARIABLE) or own_address(),
        help="where the server is; https://HOST:PORT: with TLS; unix:PATH: a socket of this "
        f"machine (default: ${_VARIABLE}, or the server that $POLYHEAD_HOST, $POLYHEAD_PORT and "
        "$POLYHEAD_TLS_CERT configure, or else localhost:50051)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=timeout_s,
        help="longest time to wait for a response (default: %(default)g)",
    )
    add_security_arguments(parser)


def add_security_arguments(parser: ArgumentParser) -> None:
    """Declare --header, and the flags of TLS and of the token, which have variables of their own.

    The token itself has none, because every user of a machine can read the arguments of commands.
    """
    group = parser.add_argument_group("TLS, token and headers")
    group.add_argument(
        "--tls",
        action=BooleanOptionalAction,
        default=_is_on(f"{_PREFIX}TLS"),
        help=f"use TLS, and trust the usual authorities; implied by the next flags (${_PREFIX}TLS)",
    )
    for flag, metavar, text in _SECURITY_FLAGS:
        variable = _variable(flag)
        group.add_argument(
            flag, metavar=metavar, default=os.environ.get(variable), help=f"{text} (${variable})"
        )
    group.add_argument(
        "--header",
        metavar="NAME=VALUE",
        type=_parse_header,
        action="append",
        default=[],
        help="metadata sent with every call, for a proxy; may be repeated",
    )
    group.add_argument(
        "--allow-plaintext-token",
        action=BooleanOptionalAction,
        default=_is_on(_variable("--allow-plaintext-token")),
        help="send the token without TLS, to other machines too "
        f"(${_variable('--allow-plaintext-token')})",
    )


def open_client(arguments: Namespace) -> Client:
    """Make a client from the flags of add_server_arguments. Raises InvalidArgumentError."""
    from polyhead import Client

    options = client_arguments(arguments)
    with client_errors_name_flags():
        return Client(arguments.server, timeout=arguments.timeout, **options)


def client_errors_name_flags() -> AbstractContextManager[None]:
    """Turn errors about a client's own arguments into a UsageError that names the flag."""
    return errors_name_flags(_CLIENT_FLAGS.get)


def client_arguments(arguments: Namespace) -> dict[str, Any]:
    """Return a client's arguments for TLS, token and metadata. Raises UsageError."""
    return {
        "metadata": dict(arguments.header) or None,
        "tls": _read_tls(arguments),
        "token": _read_token(arguments.token_file) if arguments.token_file else None,
        "allow_plaintext_token": arguments.allow_plaintext_token,
    }


def _read_tls(arguments: Namespace) -> TLSConfig | None:
    from polyhead.types import TLSConfig

    files = {
        "root_certificates": arguments.tls_ca or None,
        "private_key": arguments.tls_key or None,
        "certificate_chain": arguments.tls_cert or None,
        "server_name": arguments.tls_server_name or None,
    }
    says_whom_to_trust = arguments.tls or files["root_certificates"] or files["server_name"]
    server_tls = None
    if arguments.server == own_address() and not says_whom_to_trust:
        server_tls = own_tls()
    if not (arguments.tls or any(files.values())):
        return server_tls
    with client_errors_name_flags():
        client_tls = TLSConfig.from_files(**files)
    if server_tls is None:
        return client_tls
    return replace(
        client_tls,
        root_certificates=server_tls.root_certificates,
        server_name=server_tls.server_name,
    )


def _read_token(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise UsageError(f"--token-file: {path} cannot be read: {reason}") from error


def _parse_header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"expected NAME=VALUE; got {text!r}")
    return name, value


def _variable(flag: str) -> str:
    return _PREFIX + flag.removeprefix("--").replace("-", "_").upper()


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")


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
