"""A load generator in Python: a separate process with one event loop.

`python -m benchmarks.harness.python_load TASK < REQUESTS` prints a Measurement as JSON.
TASK is a LoadTask as JSON, REQUESTS are messages in gRPC's frames.
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
from benchmarks.harness.cases import Measurement
from benchmarks.harness.timing import process_tree_clock
from benchmarks.report import ROOT
from polyhead import AsyncClient
from polyhead.v1 import attention_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator

    from benchmarks.harness.calls import RawCall

    Send = Callable[[int], Awaitable[object]]

__all__ = ["RAW", "STREAM", "UNARY", "WHOLE_STREAM", "PythonLoad"]

RAW, UNARY, STREAM, WHOLE_STREAM = "raw", "unary", "stream", "whole-stream"


@dataclass(frozen=True)
class LoadTask:
    """The load that the process sends."""

    mode: str
    """``raw``: grpc.aio sends and receives bytes, and the requests take turns. ``unary``,
    ``stream``: the same with polyhead.AsyncClient and this transport, arrays in and out.
    ``whole-stream``: grpc.aio repeats one stream, whose messages are the requests."""
    target: str
    process_id: int
    """Id of the server's process."""
    method: str
    in_flight: int
    seconds: float


@dataclass(frozen=True)
class PythonLoad:
    """A case: a Python process repeats a call with ``in_flight`` on one connection."""

    call: RawCall
    """A call of Attend, also for the mode `stream`: the client makes the stream."""
    in_flight: int
    mode: str = RAW

    def __call__(self, seconds: float) -> Measurement:
        """Measure for about ``seconds``."""
        call, served = self.call, self.call.served
        task = LoadTask(
            self.mode, served.target, served.process_id, call.method, self.in_flight, seconds
        )
        command = [sys.executable, "-m", "benchmarks.harness.python_load", json.dumps(asdict(task))]
        completed = subprocess.run(  # noqa: S603 - our own
            command, cwd=ROOT, input=call.frames(), stdout=subprocess.PIPE, check=True
        )
        measured = Measurement(**json.loads(completed.stdout))
        if call.is_stream:  # the process counted and timed streams, not requests
            return replace(measured, requests=measured.requests * call.requests, p50_ms=nan)
        return measured


async def send_load(task: LoadTask, messages: list[bytes]) -> Measurement:
    """Keep calls in flight for a time, in whole turns of the messages; then await them all."""
    num_choices = 1 if task.mode == WHOLE_STREAM else len(messages)
    latencies: list[float] = []

    async with _connect(task, messages) as send:
        await asyncio.gather(
            *(send(index % num_choices) for index in range(task.in_flight))
        )  # warm-up
        clock = process_tree_clock(task.process_id)
        cpu, generator_cpu, start = clock(), time.process_time(), time.perf_counter()
        indices = _indices_until(num_choices, start + task.seconds)

        async def send_repeatedly() -> None:
            for index in indices:
                sent = time.perf_counter()
                await send(index)
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(send_repeatedly() for _ in range(task.in_flight)))
        wall_s = time.perf_counter() - start
        cpu, generator_cpu = clock() - cpu, time.process_time() - generator_cpu
    return Measurement(len(latencies), wall_s, cpu, generator_cpu, median(latencies) * 1000)


def _indices_until(count: int, end: float) -> Iterator[int]:
    """Yield 0 to count - 1 repeatedly, until the time is past ``end``."""
    while time.perf_counter() < end:
        yield from range(count)


@asynccontextmanager
async def _connect(task: LoadTask, messages: list[bytes]) -> AsyncIterator[Send]:
    """Connect. Yields a function that sends a message by its index and awaits the response."""
    if task.mode in {RAW, WHOLE_STREAM}:
        async with grpc.aio.insecure_channel(task.target, options=UNLIMITED) as channel:
            if task.mode == RAW:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
                call = channel.unary_unary(task.method)
                yield lambda index: call(messages[index])
            else:
                stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
                stream = channel.stream_stream(task.method)
                yield lambda _index: _read_all(stream(_iterate(messages)))
    else:
        requests = [pb.AttendRequest.FromString(message) for message in messages]
        queries = [
            np.frombuffer(request.query.data, np.float32).reshape(request.query.shape)
            for request in requests
        ]
        model, need_weights = requests[0].model, requests[0].HasField("attn_weights")
        transport: Literal["stream", "unary"] = "stream" if task.mode == STREAM else "unary"
        async with AsyncClient(task.target, transport=transport) as client:
            yield lambda index: client.attend(
                queries[index], model=model, need_weights=need_weights
            )


async def _iterate(messages: list[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def _read_all(responses: AsyncIterable[bytes]) -> None:
    async for _ in responses:
        pass


def _split_frames(frames: bytes) -> list[bytes]:
    messages, start = [], 0
    while start < len(frames):
        end = start + 5 + int.from_bytes(frames[start + 1 : start + 5], "big")
        messages.append(frames[start + 5 : end])
        start = end
    return messages


def main(task: str) -> None:
    """Send the load, and print the measurement."""
    measured = asyncio.run(
        send_load(LoadTask(**json.loads(task)), _split_frames(sys.stdin.buffer.read()))
    )
    sys.stdout.write(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main(*sys.argv[1:])
