"""Starts the processes that load a server, sends them plans and merges their samples."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from polyhead.bench.samples import Samples
from polyhead.bench.worker import READY, STOP, Progress, WorkerFailure, worker_main
from polyhead.errors import PolyheadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from polyhead.bench.plan import Plan, Target, Workload

__all__ = ["Fleet", "start_fleet"]

_START_DELAY_S = 0.1
"""Delay from sending a plan to its start, so that all processes start together."""
_WATCH_INTERVAL_S = 0.2
_JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _WorkerProcess:
    """A process and the pipe to it. Both methods raise PolyheadError if the process has ended."""

    process: SpawnProcess
    pipe: Connection[Any, Any]

    def send(self, message: object) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            raise self._ended_error() from None

    def receive(self) -> Any:  # noqa: ANN401 - one of several types
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            raise self._ended_error() from None
        if isinstance(message, WorkerFailure):
            raise (PolyheadError if message.is_expected else RuntimeError)(message.message)
        return message

    def _ended_error(self) -> PolyheadError:
        """Make the error that names the signal or the exit code with which the process ended."""
        self.process.join(_JOIN_TIMEOUT_S)
        code = self.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return PolyheadError(f"a process that loads the server has ended by itself: {how}")


class Fleet:
    """Connected processes that carry out plans together."""

    def __init__(self, workers: list[_WorkerProcess]) -> None:
        self._workers = workers
        self.is_interrupted = False
        """Whether Ctrl-C has ended a run."""

    def run(self, plan: Plan, watch: Callable[[Progress], bool] = lambda _: True) -> Samples:
        """Carry out a plan, shared among the processes, and merge their measurements.

        ``watch`` is called regularly with their progress, and returns whether to continue. Ctrl-C
        ends the run early; a second Ctrl-C raises KeyboardInterrupt at once.
        """
        start = time.monotonic() + _START_DELAY_S
        workers = {worker.pipe: worker for worker in self._workers}
        for index, worker in enumerate(self._workers):
            worker.send((plan.share(index, len(workers)), start))
        progress = dict.fromkeys(workers, Progress())
        samples: dict[Connection[Any, Any], Samples] = {}
        is_stopping = False
        with _handle_interrupts() as was_interrupted:
            while len(samples) < len(workers):
                ready = wait([pipe for pipe in workers if pipe not in samples], _WATCH_INTERVAL_S)
                for pipe, worker in workers.items():
                    if pipe not in ready:
                        continue
                    message = worker.receive()
                    if isinstance(message, Progress):
                        progress[pipe] = message
                    else:
                        samples[pipe] = message
                continues = watch(sum(progress.values(), Progress()))
                self.is_interrupted = was_interrupted()
                if not is_stopping and (self.is_interrupted or not continues):
                    is_stopping = True
                    for worker in self._workers:
                        worker.send(STOP)
        return Samples.merged([samples[pipe] for pipe in workers])


@contextmanager
def start_fleet(target: Target, workload: Workload, processes: int) -> Iterator[Fleet]:
    """Start processes that load one server; leaving the context ends them.

    Raises PolyheadError if they cannot reach the server.
    """
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    workers: list[_WorkerProcess] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=worker_main, args=(theirs, target, workload, index), daemon=True
            )
            with _interrupt_handler(signal.SIG_IGN):  # inherited by the new process
                process.start()
            workers.append(_WorkerProcess(process, ours))
            theirs.close()
        for worker in workers:
            message = worker.receive()
            assert message == READY, message
        yield Fleet(workers)
    finally:
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(_JOIN_TIMEOUT_S)
            worker.process.kill()  # usually without effect: it has ended


@contextmanager
def _interrupt_handler(handler: signal.Handlers | Callable[..., None]) -> Iterator[None]:
    """Let this handler take Ctrl-C while the context lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets Ctrl-C and may set handlers
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _handle_interrupts() -> Iterator[Callable[[], bool]]:
    """Yield whether there was a first Ctrl-C; the second one raises KeyboardInterrupt.

    The first one does not raise, because that could interrupt the reading of a message half-way.
    """
    was_interrupted = False

    def handle(*_: object) -> None:
        nonlocal was_interrupted
        if was_interrupted:
            raise KeyboardInterrupt
        was_interrupted = True

    with _interrupt_handler(handle):
        yield lambda: was_interrupted
