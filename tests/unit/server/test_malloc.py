"""glibc keeps what large messages have freed, and gives it back when the server is idle."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import time

import pytest

from polyhead_server.process import memory

needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc"
)


def measured_alone(program):
    """What a program prints that runs in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return [int(word) for word in ended.stdout.split()]


@needs_glibc
def test_freed_blocks_are_kept_for_the_next():
    faults = (
        "import resource\n"
        "from polyhead_server.process import memory\n"
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
def test_free_memory_is_given_back_when_idle():
    program = (
        "import asyncio, psutil, time\n"
        "from polyhead_server.process import memory\n"
        "memory._IDLE_S, memory._POLL_S = 0.0, 0.01\n"
        "def held():\n"
        "    return psutil.Process().memory_info().rss >> 20\n"
        "async def trim():\n"
        "    trimming = asyncio.create_task(memory.trim_when_idle(lambda: 1.0))\n"
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


@pytest.fixture
def trims(monkeypatch):
    """Times at which memory was given back."""
    made = []
    monkeypatch.setattr(memory, "_libc_function", lambda _: lambda _: made.append(time.monotonic()))
    monkeypatch.setattr(memory, "_POLL_S", 0.001)
    monkeypatch.setattr(memory, "_IDLE_S", 0.1)
    return made


def looks(*answers):
    """Let trim_when_idle look once for each answer to since when the server is idle."""
    remaining = list(answers)

    async def look():
        done = asyncio.Event()

        def idle_since():
            if len(remaining) == 1:
                done.set()
            return remaining.pop(0)() if remaining else None

        trimming = asyncio.create_task(memory.trim_when_idle(idle_since))
        await done.wait()
        trimming.cancel()
        await asyncio.wait({trimming})

    asyncio.run(look())


def test_a_server_that_is_busy_or_only_just_idle_is_left_alone(trims):
    looks(*[lambda: None] * 5, *[time.monotonic] * 5)
    assert trims == []


def test_memory_is_given_back_once_for_each_time_of_idleness(trims):
    long_ago = time.monotonic() - 100
    looks(*[lambda: long_ago] * 5)
    assert len(trims) == 1
    trims.clear()
    looks(*[lambda: long_ago] * 5, lambda: None, *[lambda: long_ago + 50] * 5)
    assert len(trims) == 2


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    monkeypatch.setattr("sys.platform", platform)
    memory.keep_freed_memory()
    asyncio.run(asyncio.wait_for(memory.trim_when_idle(time.monotonic), 20))


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    memory.keep_freed_memory()
    asyncio.run(asyncio.wait_for(memory.trim_when_idle(time.monotonic), 20))
