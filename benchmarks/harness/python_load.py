"""A load generator in Python: a process of its own with one event loop.

`python -m benchmarks.harness.python_load TASK < REQUESTS` prints a Load as JSON. TASK is a Task as
JSON, REQUESTS are messages in gRPC's frames.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from math import nan
from statistics import median
from typing import TYPE_CHECKING, Literal

import grpc
import numpy as np

from benchmarks.harness.calls import UNLIMITED
from benchmarks.harness.cases import Load
from benchmarks.harness.timing import family_clock
from benchmarks.report import ROOT
from polyhead import AsyncClient
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator

    from benchmarks.harness.calls import RawCall

    Ask = Callable[[int], Awaitable[object]]

__all__ = ["RAW", "STREAM", "UNARY", "WHOLE_STREAM", "Driven"]

RAW, UNARY, STREAM, WHOLE_STREAM = "raw", "unary", "stream", "whole-stream"


@dataclass(frozen=True)
class Task:
    """What a process is told to do."""

    kind: str
    """``raw``: grpc.aio, bytes in and out, the requests taking turns. ``unary`` and ``stream``: the
    same by polyhead.AsyncClient with that transport, arrays in and out. ``whole-stream``: grpc.aio,
    bytes; the requests are the messages of one stream, which is repeated."""
    target: str
    process_id: int
    """The server's."""
    method: str
    in_flight: int
    seconds: float


@dataclass(frozen=True)
class Driven:
    """A case: calls repeated by a Python process with so many in flight on one connection."""

    call: RawCall
    """Of Attend for the kind `stream` as well: it is the client that makes a stream of them."""
    in_flight: int
    kind: str = RAW

    def __call__(self, seconds: float) -> Load:
        """Run for about so many seconds."""
        call, served = self.call, self.call.served
        task = Task(
            self.kind, served.target, served.process_id, call.method, self.in_flight, seconds
        )
        command = [sys.executable, "-m", "benchmarks.harness.python_load", json.dumps(asdict(task))]
        answer = subprocess.run(  # noqa: S603 - our own
            command, cwd=ROOT, input=call.frames(), stdout=subprocess.PIPE, check=True
        )
        load = Load(**json.loads(answer.stdout))
        if call.is_stream:  # which is what was counted and timed, not what it carries
            return replace(load, requests=load.requests * call.requests, p50_ms=nan)
        return load


async def drive(task: Task, messages: list[bytes]) -> Load:
    """Keep calls in flight for a time, whole turns of the requests, and wait for them all."""
    choices = 1 if task.kind == WHOLE_STREAM else len(messages)
    latencies: list[float] = []

    async with _asking(task, messages) as ask:
        await asyncio.gather(
            *(ask(number % choices) for number in range(task.in_flight))
        )  # warms up
        clock = family_clock(task.process_id)
        cpu, own_cpu, start = clock(), time.process_time(), time.perf_counter()
        numbers = _turns(choices, start + task.seconds)

        async def keep_asking() -> None:
            for number in numbers:
                asked = time.perf_counter()
                await ask(number)
                latencies.append(time.perf_counter() - asked)

        await asyncio.gather(*(keep_asking() for _ in range(task.in_flight)))
        wall_s = time.perf_counter() - start
        cpu, own_cpu = clock() - cpu, time.process_time() - own_cpu
    return Load(len(latencies), wall_s, cpu, own_cpu, median(latencies) * 1000)


def _turns(count: int, end: float) -> Iterator[int]:
    """Give 0 to count - 1 again and again, until it is late."""
    while time.perf_counter() < end:
        yield from range(count)


@asynccontextmanager
async def _asking(task: Task, messages: list[bytes]) -> AsyncIterator[Ask]:
    """Connect, and give what sends the request of a number and awaits its answer."""
    if task.kind in {RAW, WHOLE_STREAM}:
        async with grpc.aio.insecure_channel(task.target, options=UNLIMITED) as channel:
            if task.kind == RAW:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                call = channel.unary_unary(task.method)
                yield lambda number: call(messages[number])
            else:
                stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
                stream = channel.stream_stream(task.method)
                yield lambda _number: _read_all(stream(_each(messages)))
    else:
        requests = [pb.AttendRequest.FromString(message) for message in messages]
        queries = [
            np.frombuffer(request.query.data, np.float32).reshape(request.query.shape)
            for request in requests
        ]
        model, need_weights = requests[0].model, requests[0].HasField("attn_weights")
        transport: Literal["stream", "unary"] = "stream" if task.kind == STREAM else "unary"
        async with AsyncClient(task.target, transport=transport) as client:
            yield lambda number: client.attend(
                queries[number], model=model, need_weights=need_weights
            )


async def _each(messages: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def _read_all(replies: AsyncIterable[bytes]) -> None:
    async for _ in replies:
        pass


def _messages(frames: bytes) -> list[bytes]:
    messages, start = [], 0
    while start < len(frames):
        end = start + 5 + int.from_bytes(frames[start + 1 : start + 5], "big")
        messages.append(frames[start + 5 : end])
        start = end
    return messages


def main(task: str) -> None:
    """Drive, and print what it took."""
    load = asyncio.run(drive(Task(**json.loads(task)), _messages(sys.stdin.buffer.read())))
    sys.stdout.write(json.dumps(asdict(load)))


if __name__ == "__main__":
    main(*sys.argv[1:])
