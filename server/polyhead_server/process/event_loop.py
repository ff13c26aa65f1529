"""Runs one server in this process: its event loop, signals and memory."""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from polyhead.standard_streams import open_closed_streams
from polyhead_server.engine.subnormals import flush_subnormals, keeping_subnormals
from polyhead_server.errors import RequestError
from polyhead_server.process.app import App
from polyhead_server.process.metrics.worker import answer_supervisor
from polyhead_server.process.resources import memory
from polyhead_server.repository.load_threads import loads_go_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
    from socket import socket

    from polyhead_server.process.workers.worker_link import SupervisorLink
    from polyhead_server.settings import ServerSettings

__all__ = ["new_event_loop", "serve"]


def serve(
    settings: ServerSettings,
    on_serving: Callable[[Mapping[str, object]], None],
    supervisor: SupervisorLink | None = None,
    metrics: socket | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, or a supervisor's order; then drain. SIGHUP reloads the models.

    `on_serving` is called once, with the fields of the log event "serving". `metrics`: a socket
    over which a supervisor asks for this process's numbers. Raises StartupError.
    """
    memory.keep_freed_memory()
    exit_status = 2
    try:
        with keeping_subnormals(), asyncio.Runner(loop_factory=new_event_loop) as runner:
            flush_subnormals()  # small requests run in this thread
            runner.run(_serve(settings, on_serving, supervisor, metrics))
        exit_status = 0
    finally:
        if loads_go_on():
            # As the interpreter ends, it would unwind such a thread through ONNX Runtime's frames,
            # which aborts the process.
            atexit.register(os._exit, exit_status)


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
    supervisor: SupervisorLink | None,
    metrics: socket | None,
) -> None:
    reload_all = supervisor.reload_all if supervisor else None
    app = App(settings, owns_process=True, reload_all=reload_all)
    stop, background = asyncio.Event(), _Background()
    with _signals({signal.SIGTERM: stop.set, signal.SIGINT: stop.set}):
        background.on_hangup(app.reload)
        if supervisor is not None:
            supervisor.listen(stop.set, app.reload)
            background.run(supervisor.beat())
        if metrics is not None:
            background.run(answer_supervisor(metrics, app.snapshot))
        starting = asyncio.create_task(app.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        on_serving(await starting)
        background.run(memory.trim_when_idle(lambda: app.idle_since))
        if settings.watch:
            background.run(app.watch())
        await stopping
        await app.drain()
        await background.end()


class _Background:
    """Tasks that run beside the server until it has stopped."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def on_hangup(self, reload: Callable[[], Awaitable[object]]) -> None:
        """Reload on each SIGHUP. So SIGHUP never ends the process."""

        async def reload_once() -> None:
            with suppress(RequestError):  # it has been logged
                await reload()

        with suppress(NotImplementedError, AttributeError):  # on Windows there is no such signal
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, lambda: self.run(reload_once()))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    async def end(self) -> None:
        """Cancel the running tasks, and wait for their end."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@contextmanager
def _signals(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Call a handler on the event loop on each signal."""
    loop = asyncio.get_running_loop()
    replaced = {}
    for number, handler in handlers.items():
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # on Windows
            replaced[number] = signal.signal(
                number, lambda *_, handler=handler: loop.call_soon_threadsafe(handler)
            )
    try:
        yield
    finally:
        for number, before in replaced.items():
            signal.signal(number, before)
