"""Checks that every replica of a service answers, and that all give the same output."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import numpy as np

import polyhead
from polyhead.cli.command import UsageError
from polyhead_server.demo.scene import attend_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["check_replicas", "resolve"]

_TOLERANCE = 1e-5


def resolve(target: str) -> list[str]:
    """Resolve HOST:PORT to all its addresses, each as ADDRESS:PORT.

    Raises UsageError if the target has another form, or its host has no address.
    """
    host, _, port = target.rpartition(":")
    try:
        resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except ValueError as error:
        raise UsageError(f"{target!r} cannot be resolved; expected HOST:PORT") from error
    except socket.gaierror as error:
        raise UsageError(f"host {host!r} cannot be resolved: {error.strerror}") from error
    addresses = sorted({str(address[0]) for *_, address in resolved})
    return [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses]


def check_replicas(
    targets: Sequence[str], security: Mapping[str, Any], expected: int, sentence: str
) -> None:
    """Send a sentence to each replica. ``security``: a client's arguments for TLS and token.

    Raises UsageError unless their number is as expected and all give the same output;
    PolyheadError if a call fails.
    """
    if len(targets) != expected:
        raise UsageError(
            f"expected {expected} replicas (EXPECT_REPLICAS), found {len(targets)}: "
            f"{', '.join(targets)}"
        )
    outputs = []
    for target in targets:
        with polyhead.Client(target, **security) as client:
            outputs.append(attend_to(client, sentence).after)
    for target, output in zip(targets, outputs, strict=True):
        if not np.allclose(output, outputs[0], rtol=0.0, atol=_TOLERANCE):
            raise UsageError(
                f"{target} and {targets[0]} give different outputs; do both serve the same model?"
            )
