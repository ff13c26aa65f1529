"""`polyhead serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class ServeProcess:
    process: subprocess.Popen
    events: list[dict] = field(default_factory=list)
    address: str = ""

    def read_until(self, event: str) -> dict:
        """Read the log up to an event."""
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"the server ended without {event!r}: {self.events}")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "polyhead", *map(str, arguments)]


@contextmanager
def serving(*arguments: object):
    """Start a server on a free port, and end it."""
    process = subprocess.Popen(
        command("serve", "--port", 0, "--log-format", "json", *arguments),
        stderr=subprocess.PIPE,
        text=True,
    )
    server = ServeProcess(process)
    try:
        server.address = server.read_until("serving")["address"]
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=60)
