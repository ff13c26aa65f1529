"""Checks, for a service of several replicas, that every one of them is there and answers alike."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import numpy as np

import polyhead
from polyhead.cli.command import UsageError
from polyhead_server.demo.scene import attend_to

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_replicas", "resolve"]

_TOLERANCE = 1e-5


def resolve(target: str) -> list[str]:
    """Give every address behind a HOST:PORT, each as a target of its own.

    Raises UsageError if the target is of another form, or its host has no address.
    """
    host, _, port = target.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except ValueError as error:
        raise UsageError(f"{target!r} cannot be resolved; expected HOST:PORT") from error
    except socket.gaierror as error:
        raise UsageError(f"host {host!r} cannot be resolved: {error.strerror}") from error
    addresses = sorted({str(address[0]) for *_, address in found})
    return [f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses]


def check_replicas(targets: Sequence[str], expected: int, sentence: str) -> None:
    """Send a sentence to every replica by itself.

    Raises UsageError unless there are as many as expected and all give the same answer;
    PolyheadError if one does not answer.
    """
    if len(targets) != expected:
        raise UsageError(
            f"expected {expected} replicas (EXPECT_REPLICAS), found {len(targets)}: "
            f"{', '.join(targets)}"
        )
    answers = []
    for target in targets:
        with polyhead.Client(target) as client:
            answers.append(attend_to(client, sentence).after)
    for target, answer in zip(targets, answers, strict=True):
        if not np.allclose(answer, answers[0], rtol=0.0, atol=_TOLERANCE):
            raise UsageError(
                f"{target} and {targets[0]} answer differently; do both serve the same model?"
            )
