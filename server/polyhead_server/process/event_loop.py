"""Runs one server in this process: its event loop, signals and memory."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from polyhead.standard_streams import open_closed_streams
from polyhead_server.process import memory
from polyhead_server.process.app import App
from polyhead_server.process.metrics.worker import answer_supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from socket import socket

    from polyhead_server.settings import ServerSettings

__all__ = ["new_event_loop", "serve"]


def serve(
    settings: ServerSettings,
    on_serving: Callable[[Mapping[str, object]], None],
    stop_when_readable: int | None = None,
    metrics: socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until a file descriptor is readable; then drain.

    `on_serving` is called once, with the fields of the log event "serving". `metrics`: a socket
    over which a supervisor asks for this process's numbers. Raises StartupError.
    """
    memory.keep_freed_memory()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(settings, on_serving, stop_when_readable, metrics))


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make a uvloop event loop, or asyncio's where uvloop is not installed.

    A small call takes a tenth less CPU time with uvloop, which comes with the server's extras
    except on Windows. Standard streams that are closed are opened first, because uvloop ends the
    process when it closes a descriptor that has the number of one.
    """
    open_closed_streams()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def _serve(
    settings: ServerSettings,
    on_serving: Callable[[Mapping[str, object]], None],
    stop_when_readable: int | None,
    metrics: socket | None,
) -> None:
    app = App(settings, owns_process=True)
    tasks: list[asyncio.Task[None]] = []
    if metrics is not None:
        tasks.append(asyncio.create_task(answer_supervisor(metrics, app.snapshot)))
    with _stop_event(stop_when_readable) as stop:
        starting = asyncio.create_task(app.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        on_serving(await starting)
        tasks.append(asyncio.create_task(memory.trim_when_idle(lambda: app.idle_since)))
        await stopping
        await app.drain()
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@contextmanager
def _stop_event(stop_when_readable: int | None) -> Iterator[asyncio.Event]:
    """Make an event that SIGTERM, SIGINT, or data or EOF at the file descriptor sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    handlers = {}
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(signal_number, stop.set)
        except NotImplementedError:  # on Windows
            handlers[signal_number] = signal.signal(
                signal_number, lambda *_: loop.call_soon_threadsafe(stop.set)
            )
    if stop_when_readable is not None:

        def on_readable() -> None:
            loop.remove_reader(stop_when_readable)  # otherwise it is called in every turn
            stop.set()

        loop.add_reader(stop_when_readable, on_readable)
    try:
        yield stop
    finally:
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)
