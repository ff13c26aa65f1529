"""Runs of Locust with loadtest/locustfile.py, in the environment that `make deploy-test` makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALL = "Aggregated"
# A line of the table: type, name, requests, failures, their share; average, least, most, median.
_LINE = re.compile(
    r"^\w* +(?P<name>\S.*?) +(?P<requests>\d+) +(?P<failures>\d+)\(.*?\) \|"
    r" +\d+ +\d+ +\d+ +(?P<median>\d+) \|",
    re.MULTILINE,
)
# How often, type, name: failure
_FAILURE = re.compile(r"^(?P<count>\d+) +\w+ (?P<name>.*?): (?P<failure>.*?) *$", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """A line of the report."""

    requests: int
    failures: int
    median_ms: int


@dataclass(frozen=True)
class Run:
    """A run without the page."""

    status: int
    output: str
    lines: dict[str, Line]
    """The report by name; all together are ALL."""
    failures: dict[str, dict[str, int]]
    """Name, then failure, then how often."""


def find_locust() -> str | None:
    """Find the program in .venv-load, or wherever the machine has it."""
    made = ROOT / ".venv-load/bin/locust"
    return str(made) if made.exists() else shutil.which("locust")


def run_locust(target, *arguments, mix=None, seconds=3, environment=()):
    """Let four users call a server for so many seconds, and read the report that is printed."""
    command = [find_locust(), "-f", ROOT / "loadtest/locustfile.py", "--host", target]
    command += ["--headless", "-u", 4, "-r", 4, "-t", f"{seconds}s", "--stop-timeout", 10]
    variables = {**os.environ, **dict(environment), "PYTHONPATH": str(ROOT / "client")}
    if mix:
        variables["POLYHEAD_MIX"] = str(mix)
    done = subprocess.run(
        [*map(str, command), "--only-summary", *map(str, arguments)],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    output = done.stdout + done.stderr
    lines = {
        found["name"]: Line(int(found["requests"]), int(found["failures"]), int(found["median"]))
        for found in _LINE.finditer(output)
    }
    failures = {}
    for found in _FAILURE.finditer(output.partition("Error report")[2]):
        failures.setdefault(found["name"], {})[found["failure"]] = int(found["count"])
    return Run(done.returncode, output, lines, failures)
