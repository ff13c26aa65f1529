"""`polyhead serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Served", "serving"]


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    target: str
    """Address for a client."""
    process_id: int


@contextmanager
def serving(models: Path, *flags: str) -> Iterator[Served]:
    """Start a server on a free port, wait until it serves, and end it."""
    command = [sys.executable, "-m", "polyhead", "serve", "--models", str(models), "--port", "0"]
    command += ["--log-format", "json", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        yield Served(_address(process), process.pid)
    finally:
        process.terminate()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    """Read the log up to the line that tells where it serves."""
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
            return str(event["address"])
    raise RuntimeError("the server ended before it served:\n" + "".join(lines))
