"""`polyhead info`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from polyhead.cli.command import Command
from polyhead.cli.shared_arguments import add_server_arguments, open_client

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from polyhead.types import ServerInfo

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Describe a server: versions, execution providers, limits, and whether it is ready.

The exit status is 0 if it is ready and 1 if not, so the command also works as a health check.

  polyhead info
  polyhead info --server host:50051 --timeout 2 --json
"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_server_arguments(parser, timeout_s=5)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(arguments: Namespace) -> int:
    with open_client(arguments) as client:
        info = client.server_info()
        is_ready = client.is_ready()
    if arguments.json:
        text = json.dumps({"is_ready": is_ready, **asdict(info)}, indent=2)
    else:
        text = _as_text(info, "ready" if is_ready else "not ready")
    sys.stdout.write(f"{text}\n")
    return 0 if is_ready else 1


def _as_text(info: ServerInfo, state: str) -> str:
    lines = [
        ("state", state),
        ("polyhead", info.version),
        ("onnxruntime", info.onnxruntime_version),
        ("providers", ", ".join(info.providers)),
        *((name, f"{limit:,}") for name, limit in asdict(info.limits).items()),
    ]
    return "\n".join(f"{name:<20} {value}" for name, value in lines)


COMMAND = Command(
    help="describe a server and check that it is ready",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
