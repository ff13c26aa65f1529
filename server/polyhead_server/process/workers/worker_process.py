"""A worker process as its supervisor sees it."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from polyhead_server.errors import StartupError
from polyhead_server.process import logs
from polyhead_server.process.metrics.worker import WorkerNumbers
from polyhead_server.process.workers.worker_link import (
    Beat,
    Failed,
    FromWorker,
    Reload,
    Reloaded,
    ReloadWanted,
    Serving,
    Stop,
    SupervisorLink,
    ToWorker,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from polyhead_server.settings import ServerSettings

__all__ = ["WorkerProcess"]

# A forked process would copy the locks of gRPC's and ONNX Runtime's threads, but not the threads.
_SPAWN = multiprocessing.get_context("spawn")


class WorkerProcess:
    """The process, and the supervisor's end of the pipe."""

    def __init__(self, number: int, settings: ServerSettings) -> None:
        self.number = number
        self.silent_ticks = 0
        """How often the supervisor has looked since the worker's last message."""
        self.has_started = False
        """Whether the worker has sent anything."""
        self.failure: Exception | None = None
        """Why the worker cannot serve."""
        self._reloads: list[asyncio.Future[Reloaded]] = []
        self._pipe, worker_pipe = _SPAWN.Pipe()
        own_end, worker_end = socket.socketpair()
        # Only the worker may hold its ends; otherwise its death would not show as EOF.
        with worker_pipe, worker_end, _no_hangups():
            name = f"polyhead-worker-{number}"
            self._process = _SPAWN.Process(
                target=_run_worker, args=(number, settings, worker_pipe, worker_end), name=name
            )
            self._process.start()
        self.numbers = WorkerNumbers(own_end)
        """The counts and gauges of the worker."""

    @property
    def fields(self) -> dict[str, object]:
        """Fields of log events about this worker."""
        return {"worker": self.number, "pid": self._process.pid}

    @property
    def status(self) -> int | None:
        """Exit status of a process that has ended; negative: the signal that killed it."""
        return self._process.exitcode

    async def serve(
        self, on_serving: Callable[[Serving], None], on_reload_wanted: Callable[[], None]
    ) -> None:
        """Take the worker's messages until the process has ended."""
        while (message := await self._receive()) is not None:
            self.has_started, self.silent_ticks = True, 0
            match message:
                case Serving():
                    on_serving(message)
                case Failed():
                    self.failure = message.error
                case ReloadWanted():
                    on_reload_wanted()
                case Reloaded():
                    self._settle_reload(message)
                case Beat():
                    pass
        await _wait_until_readable(self._process.sentinel)
        self._process.join()
        self._pipe.close()
        self.numbers.close()
        while self._reloads:
            self._settle_reload(Reloaded())

    async def reload(self) -> Reloaded:
        """Make the worker reload its models. The result is empty if the worker ends before."""
        answer: asyncio.Future[Reloaded] = asyncio.get_running_loop().create_future()
        self._reloads.append(answer)
        self.send(Reload())
        return await answer

    def stop(self) -> None:
        """Make the worker drain and end."""
        self.send(Stop())

    def kill(self) -> None:
        """End the worker at once, whatever it does; this works on stopped processes too."""
        self._process.kill()

    def send(self, message: ToWorker) -> None:
        """Send a message, unless the worker has ended."""
        with suppress(OSError):
            self._pipe.send(message)

    async def _receive(self) -> FromWorker | None:
        """Wait for a message; None if the worker has closed its end."""
        await _wait_until_readable(self._pipe.fileno())
        try:
            message: FromWorker = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return message

    def _settle_reload(self, reloaded: Reloaded) -> None:
        """Give an answer to the reload that has waited for longest."""
        if self._reloads and not (answer := self._reloads.pop(0)).done():
            answer.set_result(reloaded)


def _run_worker(
    number: int, settings: ServerSettings, pipe: Connection, metrics: socket.socket
) -> None:
    """Serve in a worker's process; `pipe` and `metrics` are its ends of pipe and pair."""
    # Ctrl-C in a terminal reaches workers too, and would print a traceback before serve() begins.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings.log_format, settings.log_level, worker=number)
    supervisor = SupervisorLink(pipe, settings.worker_limits.beat_s)
    try:
        from polyhead_server.process.event_loop import serve

        serve(settings, lambda facts: supervisor.send(Serving(facts)), supervisor, metrics)
    except (StartupError, ModuleNotFoundError) as error:
        supervisor.send(Failed(error))
    finally:
        logs.flush()


@contextmanager
def _no_hangups() -> Iterator[None]:
    """Keep SIGHUP from ending processes that start before they handle it; they inherit the mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


async def _wait_until_readable(descriptor: int) -> None:
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(descriptor)
