"""Load from h2load, a generator in C (Debian: nghttp2-client).

It shares the server's CPUs, and uses less of them than a Python process. It does not know gRPC and
counts refused calls as succeeded, so the bytes received are compared with the expected number.
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

from benchmarks.harness.cases import Measurement
from benchmarks.harness.timing import process_tree_clock

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall

__all__ = ["H2load", "has_h2load"]

PREFIX_BYTES = 5
"""Length of the prefix that gRPC puts before each message."""
TOLERANCE = 0.05
"""Allowed deviation: responses to one request differ by a few bytes, because times differ."""


def has_h2load() -> bool:
    """Whether h2load is installed."""
    return shutil.which("h2load") is not None


class H2load:
    """A case: a call repeated with ``in_flight`` on each connection."""

    def __init__(self, call: RawCall, in_flight: int, connections: int = 1) -> None:
        if len(call.messages) > 1 and not call.is_stream:
            raise ValueError("h2load repeats one request; several cannot take turns")
        self._call = call
        self._in_flight = in_flight
        self._connections = connections
        self._seconds_per_call = 0.0
        """Duration of a call, or of a whole stream, in the last run."""

    def __call__(self, seconds: float) -> Measurement:
        """Measure for about ``seconds``. A short first run finds the number of calls."""
        min_count = 2 * self._in_flight * self._connections
        if not self._seconds_per_call:
            self._run(min_count)
        return self._run(max(min_count, round(seconds / self._seconds_per_call)))

    def _run(self, count: int) -> Measurement:
        call = self._call
        clock = process_tree_clock(call.served.process_id)
        with TemporaryDirectory() as folder:
            body, log = Path(folder, "body"), Path(folder, "log")
            body.write_bytes(call.frames())
            cpu, generator_cpu = clock(), _children_cpu_s()
            completed = subprocess.run(  # noqa: S603 - our own arguments
                self._command(count, body, log), capture_output=True, text=True, check=True
            )
            cpu, generator_cpu = clock() - cpu, _children_cpu_s() - generator_cpu
            latencies = [int(line.split()[2]) for line in log.read_text().splitlines()]
        self._check(count, completed.stdout)
        wall_s = _wall_s(completed.stdout)
        self._seconds_per_call = wall_s / count
        return Measurement(
            requests=count * call.requests,
            wall_s=wall_s,
            cpu_s=cpu,
            client_cpu_s=generator_cpu,
            p50_ms=nan if call.is_stream else median(latencies) / 1000,
        )

    def _command(self, count: int, body: Path, log: Path) -> list[str]:
        call = self._call
        command = ["h2load", "-t", "1", "-c", str(self._connections), "-m", str(self._in_flight)]
        command += ["-n", str(count), "-d", str(body), f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [*command, f"http://{call.served.target}{call.method}"]

    def _check(self, count: int, report: str) -> None:
        """Raise RuntimeError unless all calls succeeded with the expected number of bytes."""
        succeeded = _find_number(r"(\d+) succeeded", report)
        received = _find_number(r"\((\d+)\) data", report) / count
        expected = self._call.response_bytes + PREFIX_BYTES * len(self._call.messages)
        if succeeded != count or abs(received - expected) > TOLERANCE * expected:
            raise RuntimeError(
                f"{self._call.method}: {succeeded:.0f} of {count} calls were answered, with "
                f"{received:.0f} bytes each where {expected} were expected:\n{report}"
            )


def _find_number(pattern: str, report: str) -> float:
    match = re.search(pattern, report)
    assert match, f"h2load's report has no {pattern}:\n{report}"
    return float(match[1])


def _wall_s(report: str) -> float:
    match = re.search(r"finished in ([\d.]+)(us|ms|s|m)", report)
    assert match, report
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[match[2]]


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
