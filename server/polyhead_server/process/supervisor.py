"""Worker processes that serve one port, and the supervisor that restarts them.

The kernel distributes the port's connections among the workers, which share nothing else. A pipe
connects each worker to the supervisor. Through it the worker reports once whether it serves. It
starts draining when its end becomes readable: either a STOP message, or EOF because the supervisor
died. The supervisor reads EOF when a worker died before its report.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from polyhead_server.errors import StartupError
from polyhead_server.process import logs
from polyhead_server.process.metrics.port import MetricsPort
from polyhead_server.process.metrics.worker import WorkerNumbers
from polyhead_server.process.port import address_of, claimed_port

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from polyhead_server.process.metrics.snapshot import Snapshot
    from polyhead_server.settings import ServerSettings

__all__ = ["serve_with_workers"]

_LOG = logging.getLogger("polyhead.workers")

# A forked process would copy the locks of gRPC's and ONNX Runtime's threads, but not the threads.
_SPAWN = multiprocessing.get_context("spawn")

_STOP = "stop"
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_STABLE_S = 10.0

_Report: TypeAlias = Mapping[str, object] | Exception
"""What a worker reports: the fields of the log event "serving", or why it cannot serve."""


def serve_with_workers(settings: ServerSettings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT; then drain them all.

    Raises StartupError, or ModuleNotFoundError from a worker, if a worker cannot start.
    """
    if sys.platform != "linux":
        raise StartupError(
            "--workers needs Linux, whose kernel distributes connections among processes; "
            "leave it at 1"
        )
    with claimed_port(settings.host, settings.port) as port:
        asyncio.run(Supervisor(replace(settings, port=port)).run())


class Supervisor:
    """Starts the workers, and replaces those that end, until a signal stops them all.

    One task for each worker number starts a process, waits until it ends, and starts the next after
    a pause. Until every worker has served once, the failure of any worker stops the whole group,
    because the settings are probably wrong. Later failures only end in a restart.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._running: set[WorkerProcess] = set()
        self._starting = set(range(1, settings.workers + 1))
        """Numbers of the workers that have never served; empty once the group has started."""
        self._metrics = MetricsPort(self._snapshots, settings.metrics_limits)
        self._metrics_address: str | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._stop_all)
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if port is not None:
            self._metrics_address = address_of(host, await self._metrics.start(host, port))
        keepers = [asyncio.create_task(self._keep(number)) for number in sorted(self._starting)]
        # This returns when all tasks have ended after a signal, or one failed during the start.
        await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        self._stop_all()
        for outcome in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        self._metrics.close()
        _LOG.info("stopped", extra={"workers": self._settings.workers})

    def _stop_all(self) -> None:
        self._stop.set()
        for worker in self._running:
            worker.stop()

    async def _snapshots(self) -> dict[str, Snapshot]:
        """Return the numbers of the workers that answer in time, by the worker's number."""
        workers = sorted(self._running, key=lambda worker: worker.number)
        within_s = self._settings.metrics_limits.worker_s
        found = await asyncio.gather(*(worker.numbers.snapshot(within_s) for worker in workers))
        pairs = zip(workers, found, strict=True)
        return {str(worker.number): numbers for worker, numbers in pairs if numbers is not None}

    async def _keep(self, number: int) -> None:
        """Keep one worker running. Raises what _watch raises."""
        pause_s = 0.0
        while not self._stop.is_set():
            worker = WorkerProcess(number, self._settings)
            self._running.add(worker)
            served_s = await self._watch(worker)
            self._running.remove(worker)
            if self._stop.is_set():
                return
            pause_s = _pause_after(served_s, pause_s)
            ended = {"status": worker.status, "restart_in_s": pause_s}
            _LOG.warning("worker ended", extra=worker.fields | ended)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _watch(self, worker: WorkerProcess) -> float:
        """Wait until a worker has ended, and return for how many seconds it has served.

        Raises the worker's error, or StartupError, if it failed before the group had started.
        """
        report = await worker.report()
        if isinstance(report, Mapping):
            began = time.monotonic()
            self._note_serving(worker, report)
            await worker.wait()
            return time.monotonic() - began
        await worker.wait()
        if self._stop.is_set():
            return 0.0
        if self._starting:
            raise report or StartupError(
                f"worker {worker.number} ended with status {worker.status} before it served; "
                "if it was killed for memory, choose fewer --workers"
            )
        if report:
            _LOG.error("worker cannot serve", extra=worker.fields | {"reason": report})
        return 0.0

    def _note_serving(self, worker: WorkerProcess, facts: Mapping[str, object]) -> None:
        _LOG.info("worker serving", extra=worker.fields)
        if self._starting:
            self._starting.discard(worker.number)
            if not self._starting:
                fields = {**facts, "workers": self._settings.workers}
                if self._metrics_address is not None:
                    fields["metrics"] = self._metrics_address
                _LOG.info("serving", extra=fields)


class WorkerProcess:
    """A worker as the supervisor sees it: the process, and the supervisor's end of the pipe."""

    def __init__(self, number: int, settings: ServerSettings) -> None:
        self.number = number
        self._pipe, worker_pipe = _SPAWN.Pipe()
        own_end, worker_end = socket.socketpair()
        # Only the worker may hold its ends; otherwise its death would not show as EOF.
        with worker_pipe, worker_end:
            name = f"polyhead-worker-{number}"
            self._process = _SPAWN.Process(
                target=_run_worker, args=(number, settings, worker_pipe, worker_end), name=name
            )
            self._process.start()
        self.numbers = WorkerNumbers(own_end)
        """What the worker counts and holds."""

    @property
    def fields(self) -> dict[str, object]:
        """Fields of log events about this worker."""
        return {"worker": self.number, "pid": self._process.pid}

    @property
    def status(self) -> int | None:
        """Exit status of a process that has ended; negative: the signal that killed it."""
        return self._process.exitcode

    async def report(self) -> _Report | None:
        """Wait for the worker's report; None: it ended without one."""
        await _wait_until_readable(self._pipe.fileno())
        try:
            report: _Report = self._pipe.recv()
        except (EOFError, OSError):
            return None
        return report

    def stop(self) -> None:
        """Make the worker drain and end."""
        with suppress(OSError):  # the worker has ended
            self._pipe.send(_STOP)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await _wait_until_readable(self._process.sentinel)
        self._process.join()
        self._pipe.close()
        self.numbers.close()


def _run_worker(
    number: int, settings: ServerSettings, supervisor: Connection, metrics: socket.socket
) -> None:
    """Serve in a worker's process; `supervisor` and `metrics` are its ends of pipe and pair."""
    # Ctrl-C in a terminal reaches workers too, and would print a traceback before serve() begins.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(settings.log_format, settings.log_level, worker=number)

    def report(outcome: _Report) -> None:
        with suppress(OSError):  # the supervisor died, which serve() notices by EOF
            supervisor.send(outcome)

    try:
        from polyhead_server.process.event_loop import serve

        serve(settings, report, stop_when_readable=supervisor.fileno(), metrics=metrics)
    except (StartupError, ModuleNotFoundError) as error:
        report(error)


async def _wait_until_readable(descriptor: int) -> None:
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, is_readable.set)
    try:
        await is_readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _pause_after(served_s: float, last_pause_s: float) -> float:
    """Return how long to wait before a worker is replaced: 0 if it has served for long."""
    if served_s >= _STABLE_S:
        return 0.0
    return min(max(_MIN_PAUSE_S, 2 * last_pause_s), _MAX_PAUSE_S)
