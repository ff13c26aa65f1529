"""A process that serves: its event loop, its memory, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing

import pytest

from polyhead_server.process import memory
from polyhead_server.process.event_loop import new_event_loop, serve
from polyhead_server.settings import ServerSettings


def test_the_event_loop_is_that_of_uvloop():
    uvloop = pytest.importorskip("uvloop")
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, uvloop.Loop)


def test_without_uvloop_the_event_loop_is_that_of_asyncio(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, asyncio.SelectorEventLoop)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_memory_is_trimmed_while_the_server_runs_until_sigterm(monkeypatch, has_uvloop):
    events, watched = [], []

    async def watch(idle_since):
        watched.append(idle_since())
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: events.append("memory"))
    monkeypatch.setattr(memory, "trim_when_idle", watch)
    serve(ServerSettings(port=0), events.append)
    assert events[0] == "memory"
    assert events[1]["models"] == 1
    assert len(events) == 2
    assert watched == [None]
