"""`polyhead health`."""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentTypeError
from functools import partial
from typing import TYPE_CHECKING

from polyhead.cli.command import Command
from polyhead.cli.shared_arguments import (
    add_server_arguments,
    client_arguments,
    client_errors_name_flags,
)

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Ask a server whether it serves (grpc.health.v1), for probes of containers and scripts.

The exit status is 0 if it serves and 1 if not. It takes a third of the CPU time of `polyhead info`,
and needs no token, except for --model.

  polyhead health
  polyhead health host:50051 --tls-ca ca.pem --timeout 2
  polyhead health --service polyhead.v1.AttentionService
  polyhead health --model minilm --token-file token     whether a model can run
"""
_MODEL_READY = "/inference.GRPCInferenceService/ModelReady"
_SERVICE, _NAME, _VERSION = 1, 1, 2
"""Numbers of the fields of HealthCheckRequest and ModelReadyRequest."""


def _parse_model(text: str) -> tuple[str, str]:
    """Parse ``NAME`` or ``NAME:VERSION``."""
    name, colon, version = text.partition(":")
    if not name or (colon and not version.isdecimal()):
        raise ArgumentTypeError(f"expected NAME or NAME:VERSION, such as minilm:1; got {text!r}")
    return name, version


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "server", metavar="HOST:PORT", nargs="?", default=SUPPRESS, help="the same as --server"
    )
    add_server_arguments(parser, timeout_s=4)
    service_or_model = parser.add_mutually_exclusive_group()
    service_or_model.add_argument(
        "--service", metavar="NAME", default="", help="whether this service serves (default: all)"
    )
    service_or_model.add_argument(
        "--model", metavar="NAME[:VERSION]", type=_parse_model, help="whether this model can run"
    )


def _run(arguments: Namespace) -> int:
    import grpc

    from polyhead._client.channel import is_connected, make_channel_config, open_channel
    from polyhead._client.methods import HEALTH_CHECK, SERVING

    options = client_arguments(arguments)
    if arguments.model is None:
        method, question = HEALTH_CHECK, _fields((_SERVICE, arguments.service))
        options["token"] = ""  # health needs none
    else:
        name, version = arguments.model
        method, question = _MODEL_READY, _fields((_NAME, name), (_VERSION, version))
    with client_errors_name_flags():
        config = make_channel_config(arguments.server, timeout=arguments.timeout, **options)
    with open_channel(config) as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        try:
            answer = check(question, timeout=config.timeout_s, metadata=config.metadata)
        except grpc.RpcError as error:
            from polyhead._rpc_errors import from_rpc_error

            target, timeout_s = arguments.server, config.timeout_s
            raise from_rpc_error(
                error,
                target=target,
                timeout_s=timeout_s,
                is_connected=partial(is_connected, channel),
            ) from error
    is_serving = answer == SERVING  # of a model, the same bytes mean that it is ready
    sys.stdout.write("serving\n" if is_serving else "not serving\n")
    return 0 if is_serving else 1


def _fields(*texts: tuple[int, str]) -> bytes:
    """Write a message's text fields, by number; its stubs would take as long as the call."""
    from polyhead.wire.protobuf import header

    encoded = ((number, text.encode(errors="replace")) for number, text in texts if text)
    return b"".join(header(number, len(data)) + data for number, data in encoded)


COMMAND = Command(
    help="ask a server whether it serves",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
