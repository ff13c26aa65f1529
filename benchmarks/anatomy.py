"""Where a request's CPU time goes: each step of a server under load, beside an empty server.

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
from functools import wraps
from math import isnan, nan
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING, Any

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call
from benchmarks.harness.cases import loads_in_turns
from benchmarks.harness.echo import echoing
from benchmarks.harness.generators import repeat
from benchmarks.harness.in_process import alone
from benchmarks.harness.python_load import STREAM, Driven
from benchmarks.harness.serving import Served
from benchmarks.limits.compute import MIXED_LENGTHS
from benchmarks.report import RESULTS, ROOT, publish, say, table
from benchmarks.repository import MODEL, exported
from polyhead_models import builtin
from polyhead_server.codec.request import AttendRequest
from polyhead_server.engine.runtime import Model
from polyhead_server.planning.plan import CallPlan
from polyhead_server.planning.plan_cache import Forms
from polyhead_server.process import event_loop as process
from polyhead_server.services.attention import stream
from polyhead_server.services.attention.alike_requests import AlikeRequests
from polyhead_server.services.attention.stream_messages import StreamMessage
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from benchmarks.harness.calls import RawCall
    from benchmarks.harness.cases import Case, Load

STEPS: dict[str, list[tuple[object, str]]] = {
    "find the numbers in the message": [
        (AttendRequest, "__init__"),
        (stream, "read_stream_message"),
        (AlikeRequests, "of"),
    ],
    "recognise the form": [(Forms, "of")],
    "view the arrays": [(AttendRequest, "arrays"), (AlikeRequests, "arrays")],
    "look for NaN and infinities": [(CallPlan, "embeddings")],
    "ONNX Runtime": [(Model, "run_graph")],
    "write the reply": [(AttendRequest, "reply"), (AlikeRequests, "reply")],
}
"""Steps, each of a method or several. What one contains of another counts as the other's."""
POLYHEAD, ALONE, ECHO = "polyhead", "in process", "raw bytes"
NOTE = """\
CPU us of the server, a request, by step: means over {seconds:g} s of load, 16 (of 128 tokens: 8)
requests in flight on one connection, `--threads 1`. Beneath the steps stand what is left of the
server's CPU time; ONNX Runtime's run in a loop of its own, where nothing else takes the caches; and
a server that receives and sends as many bytes and does nothing else. "Stream": 16 callers of one
AsyncClient with `transport="stream"`, whose own CPU time is the last line's."""


@dataclass
class Clocks:
    """The time that steps have taken, in this process."""

    ns: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    _inner: local = field(default_factory=local)
    """Of each thread: what the steps within the one that it is in have taken."""

    def watch(self, name: str, owner: object, attribute: str) -> None:
        """Count the CPU time of a method, by the thread that runs it."""
        method: Callable[..., Any] = getattr(owner, attribute)

        @wraps(method)
        def timed(*arguments: object, **named: object) -> object:
            before, self._inner.ns = getattr(self._inner, "ns", 0), 0
            started = time.thread_time_ns()
            result = method(*arguments, **named)
            took = time.thread_time_ns() - started
            self.ns[name] = self.ns.get(name, 0) + took - self._inner.ns
            self._inner.ns = before + took
            if isinstance(result, StreamMessage):
                self.requests += result.num_requests
            self.requests += attribute in {"__init__", "answer"}
            return result

        setattr(owner, attribute, timed)


def serve(models: Path) -> None:
    """Serve with a clock on every step, until terminated; then print what the clocks say."""
    clocks = Clocks()
    for name, methods in STEPS.items():
        for owner, attribute in methods:
            clocks.watch(name, owner, attribute)
    settings = ServerSettings(models=models, port=0, threads=1)

    def tell(event: Mapping[str, object]) -> None:
        say(str(event["address"]))

    process.serve(settings, tell)
    say(json.dumps({name: ns / clocks.requests / 1000 for name, ns in clocks.ns.items()}))


@contextmanager
def watched(models: Path, us: dict[str, float]) -> Iterator[Served]:
    """Start such a server; when it is ended, fill in what the steps took."""
    command = [sys.executable, "-m", "benchmarks.anatomy", "--serve", str(models)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert child.stdout
        yield Served(child.stdout.readline().strip(), child.pid)
    finally:
        child.terminate()
        printed, _ = child.communicate()
    us.update(json.loads(printed))


@dataclass(frozen=True)
class Work:
    """Requests that take turns, of one model."""

    models: Path
    model: str
    queries: Sequence[NDArray[Any]]
    in_flight: int
    need_weights: bool = False
    by_stream: bool = False
    """By AsyncClient, over AttendStream."""

    def requests(self) -> tuple[bytes, ...]:
        """Serialize them."""
        return tuple(
            attend_bytes(query, self.model, need_weights=self.need_weights)
            for query in self.queries
        )

    def alone(self) -> Case:
        """Run them in this process."""
        (file,) = self.models.glob(f"{self.model}/*/*.onnx")
        return alone(file, self.queries, need_weights=self.need_weights)


def anatomy(work: Work, rounds: int, seconds: float) -> dict[str, float]:
    """Measure one kind of work: CPU us by step."""
    requests, in_flight = work.requests(), work.in_flight
    us: dict[str, float] = {}
    with ExitStack() as stack:
        served = stack.enter_context(watched(work.models, us))
        calls = [attend_call(served, [request]) for request in requests]
        reply_bytes = sum(call.reply_bytes for call in calls) // len(calls)
        echo = stack.enter_context(echoing(requests[0], reply_bytes))
        call = replace(calls[0], messages=requests)
        cases = {
            POLYHEAD: Driven(call, in_flight, STREAM) if work.by_stream else _case(call, in_flight),
            ALONE: work.alone(),
        }
        if not work.by_stream:  # AsyncClient would not talk to it
            cases[ECHO] = _case(replace(echo, messages=requests), in_flight)
        loads = loads_in_turns(cases, rounds, seconds)
    of_server = {name: _mean_us(of_case) for name, of_case in loads.items()}
    left = of_server[POLYHEAD] - sum(us.values())
    return {name: us.get(name, 0.0) for name in STEPS} | {
        "the rest: gRPC, the event loop, scheduling, the kernel": left,
        "together": of_server[POLYHEAD],
        "ONNX Runtime, in a loop of its own": of_server[ALONE],
        "an empty server of as many bytes": of_server.get(ECHO, nan),
        "the client": _client_us(loads[POLYHEAD]) if work.by_stream else nan,
    }


def _case(call: RawCall, in_flight: int) -> Case:
    """h2load repeats a single request."""
    return repeat(call, in_flight) if len(call.messages) == 1 else Driven(call, in_flight)


def _mean_us(loads: Sequence[Load]) -> float:
    return sum(load.cpu_s for load in loads) / sum(load.requests for load in loads) * 1e6


def _client_us(loads: Sequence[Load]) -> float:
    return sum(load.client_cpu_s for load in loads) / sum(load.requests for load in loads) * 1e6


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="briefly, and nothing is written")
    parser.add_argument("--serve", metavar="FOLDER", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    rounds, seconds = (1, 0.3) if arguments.quick else (5, 1.0)
    mixed = [random_embeddings(seq_len, EMBED_DIM) for seq_len in MIXED_LENGTHS]
    large = [random_embeddings(128, EMBED_DIM)]
    small = Work(builtin.repository(), "river-bank", [random_embeddings(10, 6)], 16, True)  # noqa: FBT003
    columns = {"10 x 6, weights": anatomy(small, rounds, seconds)}
    with exported(EMBED_DIM, NUM_HEADS) as model:
        for name, queries, in_flight in (("128", large, 8), ("4 to 256", mixed, 16)):
            work = Work(model.folder, MODEL, queries, in_flight)
            columns[f"{name} x {EMBED_DIM}"] = anatomy(work, rounds, seconds)
    with exported(64, 4) as model:
        tiny = Work(model.folder, MODEL, [random_embeddings(16, 64)], 16, by_stream=True)
        columns["16 x 64, stream"] = anatomy(tiny, rounds, seconds)
    rows = [
        [step, *("-" if isnan(us := column[step]) else f"{us:.3g}" for column in columns.values())]
        for step in next(iter(columns.values()))
    ]
    text = f"{NOTE.format(seconds=rounds * seconds)}\n\n{table(['step', *columns], rows)}"
    say(text)
    if not arguments.quick:
        publish("anatomy", f"## Where a request's time goes\n\n{text}", RESULTS)


if __name__ == "__main__":
    main()
