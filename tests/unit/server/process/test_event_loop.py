"""A process that serves: its event loop, its memory, and how it ends."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import closing

import numpy as np
import pytest

import polyhead
from polyhead_server.process.app import App
from polyhead_server.process.event_loop import new_event_loop, serve
from polyhead_server.process.resources import memory
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


class WindowsLoop(asyncio.SelectorEventLoop):
    """An event loop that watches neither signals nor descriptors, as that of Windows."""

    def add_signal_handler(self, *_):
        raise NotImplementedError

    def add_reader(self, *_):
        raise NotImplementedError


@pytest.fixture
def windows_loop(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.setattr(asyncio, "new_event_loop", WindowsLoop)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_an_event_loop_without_signal_handlers_serves_until_a_signal(windows_loop, signal_number):
    callers, before = [], handlers()

    def on_serving(event):
        # in a thread, because the event loop answers after this callback only
        callers.append(threading.Thread(target=call, args=(event["address"],)))
        callers[0].start()

    def call(address):
        with polyhead.Client(address) as client:
            client.attend(np.ones((1, 3, 6), np.float32), model="river-bank")
        signal.pthread_kill(threading.main_thread().ident, signal_number)

    serve(ServerSettings(port=0), on_serving)
    callers[0].join()
    assert handlers() == before


def test_a_signal_while_models_load_ends_an_event_loop_without_signal_handlers(
    windows_loop, monkeypatch
):
    async def start(app):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(App, "start", start)
    before = handlers()
    serve(ServerSettings(port=0), pytest.fail)
    assert handlers() == before
