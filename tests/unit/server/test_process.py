"""A process that serves: which event loop it runs on, what it watches, how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import closing

import pytest

from polyhead_server.process import memory
from polyhead_server.process.event_loop import new_event_loop, serve
from polyhead_server.settings import ServerSettings


def test_the_event_loop_is_uvloops():
    uvloop = pytest.importorskip("uvloop")
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, uvloop.Loop)


def test_without_uvloop_it_is_asyncios(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, asyncio.SelectorEventLoop)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_it_watches_its_memory_while_it_serves_until_it_is_told_to_stop(monkeypatch, has_uvloop):
    told, watched = [], []

    async def watch(idle_since):
        watched.append(idle_since())
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: told.append("memory"))
    monkeypatch.setattr(memory, "trim_when_idle", watch)
    serve(ServerSettings(port=0), told.append)
    assert told[0] == "memory"
    assert told[1]["models"] == 1
    assert len(told) == 2
    assert watched == [None]
