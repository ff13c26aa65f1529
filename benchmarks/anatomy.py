"""Measures the CPU time of each step of a request in a server under load, and of an empty server.

`python -m benchmarks.anatomy` writes its table into RESULTS.md; `--quick` writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce, wraps
from importlib import import_module
from math import isnan, nan
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_call, inference_count, serialize_request
from benchmarks.harness.cases import measure_in_turns
from benchmarks.harness.echo import start_echo
from benchmarks.harness.generators import repeat_call
from benchmarks.harness.in_process import run_in_process
from benchmarks.harness.python_load import STREAM, PythonLoad
from benchmarks.harness.serving import ServerProcess
from benchmarks.limits.compute import MIXED_LENGTHS
from benchmarks.report import RESULTS, ROOT, print_now, publish, table
from benchmarks.repository import MODEL, exported
from polyhead_models import builtin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.harness.calls import RawCall
    from benchmarks.harness.cases import Case, Measurement

STEPS = {
    "decode the request": [
        "polyhead_server.services.attention.stream:read_stream_message",
        "polyhead_server.codec.request:DecodedRequest.arrays",
    ],
    "look up its plan": ["polyhead_server.planning.plan_cache:PlanCache.match"],
    "check for NaN and infinities": ["polyhead_server.planning.plan:CallPlan.embeddings"],
    "ONNX Runtime": ["onnxruntime:InferenceSession.run"],
    "encode the response": [
        "polyhead_server.codec.request:AttendRequest.respond",
        "polyhead_server.codec.request:StreamedRequests.respond",
    ],
}
"""The functions of each step: the only names of the server's inside that this module depends on.
If one calls another, the inner one's time counts for the inner one's step."""
POLYHEAD, IN_PROCESS, ECHO = "polyhead", "in process", "raw bytes"
NOTE = """\
CPU us of the server per request, by step: means over {seconds:g} s of load with 16 (at 128 tokens:
8) requests in flight on one connection, `--threads 1`. The lines below the steps: the rest of the
server's CPU time; the run in a loop of its own, where nothing else uses the caches; and a server
that receives and sends as many bytes and does nothing else. "Stream": 16 callers of one AsyncClient
with `transport="stream"`; the last line is that client's CPU time."""


def find_function(path: str) -> tuple[object, str]:
    """Return the owner and the name of a function, given as ``module:Class.function``."""
    module, _, qualified_name = path.partition(":")
    *owners, name = qualified_name.split(".")
    owner: object = reduce(getattr, owners, import_module(module))
    if not hasattr(owner, name):
        raise AttributeError(f"benchmarks/anatomy.py measures {path}, which does not exist")
    return owner, name


@dataclass
class Clocks:
    """The CPU time of each step in this process."""

    ns: dict[str, int] = field(default_factory=dict)
    _inner: local = field(default_factory=local)
    """For each thread: the time of the steps within the present one."""

    def watch(self, step: str, owner: object, name: str) -> None:
        """Count the CPU time of a function for a step, by the thread that runs it."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def timed(*arguments: object, **named: object) -> object:
            before, self._inner.ns = getattr(self._inner, "ns", 0), 0
            started = time.thread_time_ns()
            result = function(*arguments, **named)
            took = time.thread_time_ns() - started
            self.ns[step] = self.ns.get(step, 0) + took - self._inner.ns
            self._inner.ns = before + took
            return result

        setattr(owner, name, timed)


def serve(models: Path) -> None:
    """Serve with a clock on every step until terminated; then print the clocks in ns."""
    from polyhead_server.process import event_loop
    from polyhead_server.settings import ServerSettings

    clocks = Clocks()
    for step, paths in STEPS.items():
        for path in paths:
            clocks.watch(step, *find_function(path))

    def print_address(event: Mapping[str, object]) -> None:
        print_now(str(event["address"]))

    event_loop.serve(ServerSettings(models=models, port=0, threads=1), print_address)
    print_now(json.dumps(clocks.ns))


@contextmanager
def start_watched_server(workload: Workload, us: dict[str, float]) -> Iterator[ServerProcess]:
    """Start such a server. After its end, the steps' CPU us per request are filled in."""
    command = [sys.executable, "-m", "benchmarks.anatomy", "--serve", str(workload.models)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert child.stdout
        served = ServerProcess(child.stdout.readline().strip(), child.pid)
        yield served
        num_requests = inference_count(served, workload.model)
    finally:
        child.terminate()
        printed, _ = child.communicate()
    us.update({step: ns / num_requests / 1000 for step, ns in json.loads(printed).items()})


@dataclass(frozen=True)
class Workload:
    """Requests to one model, which take turns."""

    models: Path
    model: str
    queries: Sequence[NDArray[Any]]
    in_flight: int
    need_weights: bool = False
    by_stream: bool = False
    """Whether AsyncClient sends them over AttendStream."""

    def requests(self) -> tuple[bytes, ...]:
        """Serialize the requests."""
        return tuple(
            serialize_request(query, self.model, need_weights=self.need_weights)
            for query in self.queries
        )

    def in_process(self) -> Case:
        """Make the case that runs the graph in this process."""
        (file,) = self.models.glob(f"{self.model}/*/*.onnx")
        return run_in_process(file, self.queries, need_weights=self.need_weights)


def measure_steps(workload: Workload, rounds: int, seconds: float) -> dict[str, float]:
    """Measure a workload: CPU us per request by step."""
    requests, in_flight = workload.requests(), workload.in_flight
    us: dict[str, float] = {}
    with ExitStack() as stack:
        served = stack.enter_context(start_watched_server(workload, us))
        calls = [attend_call(served, [request]) for request in requests]
        response_bytes = sum(call.response_bytes for call in calls) // len(calls)
        echo = stack.enter_context(start_echo(requests[0], response_bytes))
        call = replace(calls[0], messages=requests)
        cases = {
            POLYHEAD: _case(call, in_flight, is_streamed=workload.by_stream),
            IN_PROCESS: workload.in_process(),
        }
        if not workload.by_stream:  # it does not implement AttendStream
            cases[ECHO] = _case(replace(echo, messages=requests), in_flight)
        measurements = measure_in_turns(cases, rounds, seconds)
    server_us = {name: _mean_us(measured) for name, measured in measurements.items()}
    rest = server_us[POLYHEAD] - sum(us.values())
    return {name: us.get(name, 0.0) for name in STEPS} | {
        "the rest: gRPC, the event loop, scheduling, the kernel": rest,
        "total": server_us[POLYHEAD],
        "ONNX Runtime, in a loop of its own": server_us[IN_PROCESS],
        "an empty server of as many bytes": server_us.get(ECHO, nan),
        "the client": _mean_us(measurements[POLYHEAD], "client_cpu_s")
        if workload.by_stream
        else nan,
    }


def _case(call: RawCall, in_flight: int, *, is_streamed: bool = False) -> Case:
    """Choose the generator: h2load repeats a single request, and AsyncClient streams."""
    if is_streamed:
        return PythonLoad(call, in_flight, STREAM)
    if len(call.messages) > 1:
        return PythonLoad(call, in_flight)
    return repeat_call(call, in_flight)


def _mean_us(measurements: Sequence[Measurement], figure: str = "cpu_s") -> float:
    """Return one of Measurement's figures, in us per request over all rounds."""
    total_s = sum(float(getattr(measured, figure)) for measured in measurements)
    return total_s / sum(measured.requests for measured in measurements) * 1e6


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure briefly, and write nothing")
    parser.add_argument("--serve", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    rounds, seconds = (1, 0.3) if arguments.quick else (5, 1.0)
    mixed = [random_embeddings(seq_len, EMBED_DIM) for seq_len in MIXED_LENGTHS]
    large = [random_embeddings(128, EMBED_DIM)]
    small = Workload(builtin.repository(), "river-bank", [random_embeddings(10, 6)], 16, True)  # noqa: FBT003
    columns = {"10 x 6, weights": measure_steps(small, rounds, seconds)}
    with exported(EMBED_DIM, NUM_HEADS) as model:
        for name, queries, in_flight in (("128", large, 8), ("4 to 256", mixed, 16)):
            workload = Workload(model.folder, MODEL, queries, in_flight)
            columns[f"{name} x {EMBED_DIM}"] = measure_steps(workload, rounds, seconds)
    with exported(64, 4) as model:
        tiny = Workload(model.folder, MODEL, [random_embeddings(16, 64)], 16, by_stream=True)
        columns["16 x 64, stream"] = measure_steps(tiny, rounds, seconds)
    rows = [
        [step, *("-" if isnan(us := column[step]) else f"{us:.3g}" for column in columns.values())]
        for step in next(iter(columns.values()))
    ]
    text = f"{NOTE.format(seconds=rounds * seconds)}\n\n{table(['step', *columns], rows)}"
    print_now(text)
    if not arguments.quick:
        publish("anatomy", f"## Where a request's time goes\n\n{text}", RESULTS)


if __name__ == "__main__":
    main()
