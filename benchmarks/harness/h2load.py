"""Load by h2load, a generator in C (Debian: nghttp2-client), where it is installed.

It takes less of the CPUs that it shares with the server than Python does. It knows nothing of gRPC,
and counts refused calls as served: what it received is therefore compared with what was expected.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from math import nan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.harness.cases import Load
from benchmarks.harness.timing import family_clock

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall

__all__ = ["H2load", "has_h2load"]

PREFIX_BYTES = 5
"""What gRPC puts before each message."""
TOLERANCE = 0.05
"""Replies of the same request differ by a few bytes: times, and how many share a message."""


def has_h2load() -> bool:
    """Whether it is installed."""
    return shutil.which("h2load") is not None


class H2load:
    """A case: calls repeated with so many in flight on each of some connections."""

    def __init__(self, call: RawCall, in_flight: int, connections: int = 1) -> None:
        if len(call.messages) > 1 and not call.is_stream:
            raise ValueError("h2load repeats one request; it cannot take turns")
        self._call = call
        self._in_flight = in_flight
        self._connections = connections
        self._seconds_each = 0.0
        """How long a request of HTTP/2, a call or a whole stream, took in the last run."""

    def __call__(self, seconds: float) -> Load:
        """Run for about so many seconds, once the first run has told how long a request takes."""
        least = 2 * self._in_flight * self._connections
        if not self._seconds_each:
            self._run(least)
        return self._run(max(least, round(seconds / self._seconds_each)))

    def _run(self, count: int) -> Load:
        call = self._call
        clock = family_clock(call.served.process_id)
        with TemporaryDirectory() as folder:
            body, log = Path(folder, "body"), Path(folder, "log")
            body.write_bytes(call.frames())
            cpu, own_cpu = clock(), _children_cpu_s()
            answer = subprocess.run(  # noqa: S603 - a generator, and arguments of our own
                self._command(count, body, log), capture_output=True, text=True, check=True
            )
            cpu, own_cpu = clock() - cpu, _children_cpu_s() - own_cpu
            latencies = [int(line.split()[2]) for line in log.read_text().splitlines()]
        self._check(count, answer.stdout)
        wall_s = _wall_s(answer.stdout)
        self._seconds_each = wall_s / count
        return Load(
            requests=count * call.requests,
            wall_s=wall_s,
            cpu_s=cpu,
            client_cpu_s=own_cpu,
            p50_ms=nan if call.is_stream else median(latencies) / 1000,
        )

    def _command(self, count: int, body: Path, log: Path) -> list[str]:
        call = self._call
        command = ["h2load", "-t", "1", "-c", str(self._connections), "-m", str(self._in_flight)]
        command += ["-n", str(count), "-d", str(body), f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [*command, f"http://{call.served.target}{call.method}"]

    def _check(self, count: int, report: str) -> None:
        """Raise RuntimeError unless all was answered, and with as many bytes as expected."""
        succeeded = _number(r"(\d+) succeeded", report)
        received = _number(r"\((\d+)\) data", report) / count
        expected = self._call.reply_bytes + PREFIX_BYTES * len(self._call.messages)
        if succeeded != count or abs(received - expected) > TOLERANCE * expected:
            raise RuntimeError(
                f"{self._call.method}: {succeeded:.0f} of {count} calls were answered, with "
                f"{received:.0f} bytes each where {expected} were expected:\n{report}"
            )


def _number(pattern: str, report: str) -> float:
    found = re.search(pattern, report)
    assert found, f"h2load's report has no {pattern}:\n{report}"
    return float(found[1])


def _wall_s(report: str) -> float:
    found = re.search(r"finished in ([\d.]+)(us|ms|s|m)", report)
    assert found, report
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[found[2]]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
