"""Run it: `python -m tests.soak --seconds 600`. Exit code 1 says that something was not flat."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(1, str(Path(__file__).parents[1] / "support"))

import numpy as np
import psutil
from golden import GOLDEN
from tests.soak.crowd import Crowd
from whole_infer import tokenizer_json

import polyhead
from polyhead_models import builtin
from polyhead_models.checkpoint.checkpoint import Checkpoint
from polyhead_models.export.whole import export_whole_model

MIB = 1 << 20
WARM_UP_S = 60
MAX_GROWTH_MIB = 20
"""By how much the least memory of the last fifth may exceed that of the first one after the
warm-up; and that of the end, when all clients have gone."""
QUERY = np.ones((1, 10, 6), np.float32)


class Sample(NamedTuple):
    """A server at one second."""

    second: int
    rss_mib: float
    descriptors: int
    threads: int
    call_ms: float
    """How long a good call took."""
    answered: int
    failed: int
    killed: int


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "log").open("w+") as log:
            with serving(repository(folder), log) as (process, address):
                problems = soak(process, address, arguments)
            if process.returncode != 0:
                problems.append(f"the server ended with {process.returncode}")
            log.seek(0)
            problems += unexpected(log)
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def repository(folder):
    shutil.copytree(builtin.repository() / "river-bank", folder / "models" / "river-bank")
    checkpoint = shutil.copytree(GOLDEN / "bert", folder / "bert")
    (checkpoint / "tokenizer.json").write_text(tokenizer_json())
    export_whole_model(Checkpoint.open(checkpoint), "bert", folder / "models")
    return folder / "models"


@contextmanager
def serving(models, log):
    """Start a server whose peers have little time, so that what they owe is seen in ten minutes."""
    command = [sys.executable, "-m", "polyhead", "serve", "--models", str(models), "--port", "0"]
    command += ["--threads", "1", "--log-format", "json"]
    command += ["--receive-timeout-s", "5", "--write-timeout-s", "5"]
    process = subprocess.Popen(command, stderr=log)
    try:
        yield process, _address(process, Path(log.name))
    finally:
        process.terminate()
        process.wait(60)


def _address(process, log):
    give_up_at = time.monotonic() + 60
    while time.monotonic() < give_up_at and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"serving"' in line:
                return json.loads(line)["address"]
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


def soak(process, address, arguments):
    """Load a server and look at it each second; return what is not as it should be."""
    server = psutil.Process(process.pid)
    with polyhead.Client(address) as client:
        expected = client.attend(QUERY, model="river-bank").output
        descriptors = server.num_fds()
        samples, problems = [], []
        with Crowd(address, random.Random(arguments.seed)) as crowd:
            began = time.monotonic()
            for second in range(1, arguments.seconds + 1):
                time.sleep(max(0.0, began + second - time.monotonic()))
                crowd.turn_over()
                samples.append(_sample(second, server, client, expected, crowd))
                _report(samples, arguments.seconds)
            problems += crowd.errors
        least = min(sample.rss_mib for sample in _after_warm_up(samples))
        problems += not_flat(samples) + not_back(server, least, descriptors)
    _print_table(samples)
    return problems


def _sample(second, server, client, expected, crowd):
    began = time.perf_counter()
    output = client.attend(QUERY, model="river-bank", timeout=10).output
    took_ms = (time.perf_counter() - began) * 1e3
    assert np.array_equal(output, expected), "a good call was answered otherwise than before"
    counts = (crowd.counts[name] for name in ("answered", "failed", "killed"))
    rss_mib = server.memory_info().rss / MIB
    return Sample(second, rss_mib, server.num_fds(), server.num_threads(), took_ms, *counts)


def _after_warm_up(samples):
    """Return the samples after the first minute, or after the first fifth of a short run."""
    warm_up_s = min(WARM_UP_S, len(samples) // 5)
    return [sample for sample in samples if sample.second > warm_up_s]


def not_flat(samples):
    """Say what grew between the first fifth after the warm-up and the last one."""
    after = _after_warm_up(samples)
    fifth = max(1, len(after) // 5)
    first, last = after[:fifth], after[-fifth:]
    problems = []
    grown = min(each.rss_mib for each in last) - min(each.rss_mib for each in first)
    if grown > MAX_GROWTH_MIB:
        problems.append(f"memory grew by {grown:.0f} MiB; expected at most {MAX_GROWTH_MIB}")
    more = min(each.descriptors for each in last) - min(each.descriptors for each in first)
    if more > 4:  # the clients of a moment
        problems.append(f"{more} more descriptors; expected as many as before")
    if (more := last[-1].threads - max(each.threads for each in first)) > 2:
        problems.append(f"{more} more threads; expected as many as before")
    return problems


def not_back(server, least_mib, descriptors):
    """Say what is not as it was 10 s after the last client has gone."""
    until = time.monotonic() + 10
    while True:
        grown, more = server.memory_info().rss / MIB - least_mib, server.num_fds() - descriptors
        if grown <= MAX_GROWTH_MIB and more <= 0:
            return []
        if time.monotonic() > until:
            return [f"{grown:.0f} MiB and {more} descriptors more when all clients have gone"]
        time.sleep(0.2)


def unexpected(log):
    """Return the lines of a log that no server should write."""
    lines = (json.loads(line) for line in log)
    return [str(line) for line in lines if line["level"].lower() in {"error", "critical"}]


def _report(samples, seconds):
    """Print a line each second in a terminal, or else ten lines in all."""
    last = samples[-1]
    if sys.stdout.isatty() or not last.second % max(1, seconds // 10):
        print(
            f"{last.second:4} of {seconds} s  {last.rss_mib:4.0f} MiB  "
            f"{last.descriptors} descriptors  {last.answered} answered  {last.failed} failed  "
            f"{last.killed} killed",
            end="\r" if sys.stdout.isatty() else "\n",
            flush=True,
        )


def _print_table(samples):
    step = max(1, len(samples) // 10)
    headings = f"{'SECONDS':>9} {'MIB':>11} {'DESCRIPTORS':>12} {'THREADS':>8}"
    print(f"\n{headings} {'P50 MS':>7} {'MAX MS':>7}")
    for first in range(0, len(samples), step):
        part = samples[first : first + step]
        rss, fds = [each.rss_mib for each in part], [each.descriptors for each in part]
        calls = [each.call_ms for each in part]
        print(
            f"{f'{part[0].second}-{part[-1].second}':>9} {f'{min(rss):.0f}-{max(rss):.0f}':>11} "
            f"{f'{min(fds)}-{max(fds)}':>12} {part[-1].threads:>8} {np.median(calls):>7.1f} "
            f"{max(calls):>7.1f}"
        )
    last = samples[-1]
    print(f"{last.answered} calls answered, {last.failed} failed, {last.killed} processes killed")


if __name__ == "__main__":
    sys.exit(main())
