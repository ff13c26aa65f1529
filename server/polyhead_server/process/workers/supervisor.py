"""The supervisor of the worker processes that serve one port.

The kernel distributes the port's connections among the workers, which share nothing else. The
supervisor starts the workers, replaces those that end or hang, passes on the orders to stop and to
reload, and ends those that do not stop in time. worker_link.py says what each sends to the other.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from polyhead_server.errors import StartupError
from polyhead_server.process.metrics.port import MetricsPort
from polyhead_server.process.network.port import address_of, claimed_port
from polyhead_server.process.workers.worker_link import Reloaded, Serving
from polyhead_server.process.workers.worker_process import WorkerProcess

if TYPE_CHECKING:
    from polyhead_server.process.metrics.snapshot import Snapshot
    from polyhead_server.settings import ServerSettings

__all__ = ["serve_with_workers"]

_LOG = logging.getLogger("polyhead.workers")

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_STABLE_S = 10.0


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
        self._limits = settings.worker_limits
        self._stop = asyncio.Event()
        self._running: set[WorkerProcess] = set()
        self._starting = set(range(1, settings.workers + 1))
        """Numbers of the workers that have never served; empty once the group has started."""
        self._metrics = MetricsPort(self._snapshots, settings.metrics_limits)
        self._metrics_address: str | None = None
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._stop_all)
        host, port = self._settings.metrics_host, self._settings.metrics_port
        if port is not None:
            self._metrics_address = address_of(host, await self._metrics.start(host, port))
        loop.add_signal_handler(signal.SIGHUP, self._reload_all)
        keepers = [asyncio.create_task(self._keep(number)) for number in sorted(self._starting)]
        looking = asyncio.create_task(self._kill_silent_workers())
        # This returns when all tasks have ended after a signal, or one failed during the start.
        await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
        self._stop_all()
        for outcome in await asyncio.gather(*keepers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        self._metrics.close()
        looking.cancel()
        _LOG.info("stopped", extra={"workers": self._settings.workers})

    def _stop_all(self) -> None:
        self._stop.set()
        for worker in self._running:
            worker.stop()
        asyncio.get_running_loop().call_later(self._settings.max_stop_s, self._kill_all)

    def _kill_all(self) -> None:
        """End the workers that have not stopped in time."""
        for worker in self._running:
            _LOG.error("worker killed, because it did not stop in time", extra=worker.fields)
            worker.kill()

    async def _kill_silent_workers(self) -> None:
        """End each worker that has sent nothing for too long, for ever.

        Checks are counted instead of seconds, because a supervisor that has been suspended for a
        while knows nothing about its workers.
        """
        while True:
            await asyncio.sleep(self._limits.beat_s)
            for worker in self._running:
                worker.silent_ticks += 1
                silent_s = worker.silent_ticks * self._limits.beat_s
                limits = self._limits
                if silent_s > (limits.silent_s if worker.has_started else limits.start_s):
                    _LOG.error("worker killed, because it hangs", extra=worker.fields)
                    worker.kill()

    def _reload_all(self, asked_by: WorkerProcess | None = None) -> None:
        """Make all workers reload their models; answer the worker that asked for it."""

        async def reload() -> None:
            outcomes = await asyncio.gather(*(worker.reload() for worker in self._running))
            if asked_by is not None:
                asked_by.send(_joined(outcomes))

        task = asyncio.get_running_loop().create_task(reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _snapshots(self) -> dict[str, Snapshot]:
        """Return the numbers of the workers that answer in time, by the worker's number."""
        workers = sorted(self._running, key=lambda worker: worker.number)
        within_s = self._settings.metrics_limits.worker_s
        snapshots = await asyncio.gather(*(worker.numbers.snapshot(within_s) for worker in workers))
        pairs = zip(workers, snapshots, strict=True)
        return {str(worker.number): numbers for worker, numbers in pairs if numbers is not None}

    async def _keep(self, number: int) -> None:
        """Keep one worker running. Raises what _serve raises."""
        pause_s = 0.0
        while not self._stop.is_set():
            worker = WorkerProcess(number, self._settings)
            self._running.add(worker)
            served_s = await self._serve(worker)
            self._running.remove(worker)
            if self._stop.is_set():
                return
            pause_s = _pause_after(served_s, pause_s)
            ended = {"status": worker.status, "restart_in_s": pause_s}
            _LOG.warning("worker ended", extra=worker.fields | ended)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    async def _serve(self, worker: WorkerProcess) -> float:
        """Wait until a worker has ended, and return for how many seconds it has served.

        Raises the worker's error, or StartupError, if it failed before the group had started.
        """
        began: float | None = None

        def note_serving(report: Serving) -> None:
            nonlocal began
            began = time.monotonic()
            self._note_serving(worker, report)

        await worker.serve(note_serving, lambda: self._reload_all(worker))
        if began is not None:
            return time.monotonic() - began
        if self._stop.is_set():
            return 0.0
        if self._starting:
            raise worker.failure or StartupError(
                f"worker {worker.number} ended with status {worker.status} before it served; "
                "if it was killed for memory, choose fewer --workers"
            )
        if worker.failure:
            _LOG.error("worker cannot serve", extra=worker.fields | {"reason": worker.failure})
        return 0.0

    def _note_serving(self, worker: WorkerProcess, report: Serving) -> None:
        _LOG.info("worker serving", extra=worker.fields)
        if self._starting:
            self._starting.discard(worker.number)
            if not self._starting:
                fields = {**report.facts, "workers": self._settings.workers}
                if self._metrics_address is not None:
                    fields["metrics"] = self._metrics_address
                _LOG.info("serving", extra=fields)


def _joined(outcomes: list[Reloaded]) -> Reloaded:
    """Merge the results of a reload in all workers: each change once, and the first problem."""
    changes = {change: None for outcome in outcomes for change in outcome.changes}
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    return Reloaded(list(changes), problems[0] if problems else "")


def _pause_after(served_s: float, last_pause_s: float) -> float:
    """Return how long to wait before a worker is replaced: 0 if it has served for long."""
    if served_s >= _STABLE_S:
        return 0.0
    return min(max(_MIN_PAUSE_S, 2 * last_pause_s), _MAX_PAUSE_S)
