"""glibc keeps memory that large messages have freed until the server is idle."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from fake_connection import FakeConnection
from fake_requests import NO_DEADLINE, FakeRepository

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.process.resources import memory
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.services.attention.service import AttentionService
from polyhead_server.settings import ServerSettings

needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)


def measured_alone(program):
    """Run a program in a process of its own; return the numbers that it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return [int(word) for word in ended.stdout.split()]


@needs_glibc
def test_freed_blocks_are_kept_for_the_next_message():
    faults = (
        "import resource\n"
        "from polyhead_server.process.resources import memory\n"
        "def fill():\n"
        "    return [b'x' * 12_600_000 for _ in range(4)]\n"
        "def faults():\n"
        "    fill()\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10):\n"
        "        fill()\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults())\n"
        "memory.keep_freed_memory()\n"
        "print(faults())\n"
    )
    by_default, kept = measured_alone(faults)
    assert kept < by_default / 10


@needs_glibc
def test_free_memory_is_returned_when_the_server_is_idle():
    program = (
        "import asyncio, psutil, time\n"
        "from polyhead_server.process.resources import memory\n"
        "def held():\n"
        "    return psutil.Process().memory_info().rss >> 20\n"
        "async def trim():\n"
        "    trimming = memory.trim_when_idle(lambda: 1.0, idle_s=0.0, poll_s=0.01)\n"
        "    trimming = asyncio.create_task(trimming)\n"
        "    give_up_at = time.monotonic() + 20\n"
        "    while held() > before + 20 and time.monotonic() < give_up_at:\n"
        "        await asyncio.sleep(0.01)\n"
        "    trimming.cancel()\n"
        "memory.keep_freed_memory()\n"
        "before = held()\n"
        "[b'x' * 12_600_000 for _ in range(16)].clear()\n"
        "kept = held()\n"
        "asyncio.run(trim())\n"
        "print(before, kept, held())\n"
    )
    before, kept, after = measured_alone(program)
    assert kept > before + 150
    assert after <= before + 20


# ---------------------------------------------------------------- when it is returned


class Clock:
    """A clock that moves only in the test."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def trims(monkeypatch, clock):
    """Times at which memory was returned."""
    made = []
    libc = SimpleNamespace(malloc_trim=lambda _: made.append(clock.now))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda _: libc)
    return made


@asynccontextmanager
async def trimming(idle_since, clock):
    """Run trim_when_idle, which polls at every turn of the event loop."""
    task = asyncio.create_task(
        memory.trim_when_idle(idle_since, idle_s=5.0, poll_s=0.0, clock=clock)
    )
    yield
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def poll():
    """Let trim_when_idle poll some times."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_memory_is_kept_while_the_server_is_busy_or_idle_for_less_than_5_s(trims, clock):
    idle_since = None

    async def scenario():
        nonlocal idle_since
        async with trimming(lambda: idle_since, clock):
            await poll()
            clock.now += 100.0  # busy for long
            await poll()
            idle_since = clock.now
            await poll()
            clock.now += 4.9
            await poll()
        assert trims == []

    asyncio.run(scenario())


def test_memory_is_returned_once_each_time_that_the_server_is_idle(trims, clock):
    idle_since = clock.now

    async def scenario():
        nonlocal idle_since
        async with trimming(lambda: idle_since, clock):
            clock.now += 5.0
            await poll()
            clock.now += 50.0
            await poll()
            assert trims == [1005.0]
            idle_since = None
            await poll()
            idle_since = clock.now
            clock.now += 6.0
            await poll()
        assert trims == [1005.0, 1061.0]

    asyncio.run(scenario())


class Traffic:
    """Small requests to a service, whose scheduler has a fake clock."""

    def __init__(self, model, scheduler):
        repository = FakeRepository(model)
        self.scheduler = scheduler
        self._service = AttentionService(repository, scheduler, ServerSettings(), asyncio.Event())
        self._connection = FakeConnection()
        self._stream = asyncio.create_task(
            self._service.attend_stream(self._connection, CallContext("stream", NO_DEADLINE))
        )

    async def unary(self):
        """Send a request by Attend, and wait for the response."""
        context = CallContext("unary", NO_DEADLINE)
        assert await self._service.attend(CALL.SerializeToString(), context)
        context.release()

    async def streamed(self):
        """Send a request by AttendStream, and wait for the response."""
        requests = [pb.StreamedRequest(id=1, call=CALL)]
        message = pb.AttendStreamRequest(requests=requests).SerializeToString()
        self._connection.has_written.clear()
        self._connection.send_bytes(message)
        await self._connection.has_written.wait()

    async def end(self):
        self._connection.end()
        await self._stream


CALL = pb.AttendRequest(model="plain", query=to_tensor(np.ones((1, 2, 8), np.float32)))


@pytest.mark.parametrize("kind", ["unary", "streamed"])
def test_small_requests_count_as_activity(run_async, make_scheduler, models, trims, clock, kind):
    """The server must not take itself for idle while small requests come steadily."""
    threads = set(threading.enumerate())

    async def scenario():
        traffic = Traffic(models["plain"], make_scheduler(clock=clock))
        send = getattr(traffic, kind)
        assert traffic.scheduler.idle_since is None
        async with trimming(lambda: traffic.scheduler.idle_since, clock):
            for _ in range(20):
                clock.now += 4.0
                await send()
                assert traffic.scheduler.idle_since == clock.now
                await poll()
            assert trims == []
            clock.now += 5.0  # now it is idle
            await poll()
            assert trims == [clock.now]
        await traffic.end()
        assert set(threading.enumerate()) <= threads  # they ran on the event loop

    run_async(scenario())


# ---------------------------------------------------------------- other systems


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_do_nothing(monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    memory.keep_freed_memory()
    asyncio.run(asyncio.wait_for(memory.trim_when_idle(time.monotonic), 20))


def test_other_c_libraries_do_nothing(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    memory.keep_freed_memory()
    asyncio.run(asyncio.wait_for(memory.trim_when_idle(time.monotonic), 20))
