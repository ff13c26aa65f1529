"""The processes that load a server, seen from the one that started them."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from polyhead.bench.samples import Samples
from polyhead.bench.worker import READY, STOP, Failure, Progress, work
from polyhead.errors import PolyheadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

    from polyhead.bench.plan import Plan, Target, Workload

__all__ = ["Fleet", "started_fleet"]

_LEAD_S = 0.1
"""From a plan's being sent to its start, so that all processes start together."""
_POLL_S = 0.2
_JOIN_S = 5.0


class Fleet:
    """Processes that are connected, and wait for plans."""

    def __init__(self, pipes: list[Connection[Any, Any]]) -> None:
        self._pipes = pipes
        self.is_interrupted = False
        """Whether Ctrl-C ended a run."""

    def run(self, plan: Plan, watch: Callable[[Progress], bool] = lambda _: True) -> Samples:
        """Carry out a plan, shared among the processes, and merge what they measured.

        ``watch`` is told now and then how far they are, and gives whether to go on. Ctrl-C ends the
        run early, and a second one at once, as KeyboardInterrupt.
        """
        start = time.monotonic() + _LEAD_S
        for index, pipe in enumerate(self._pipes):
            pipe.send((plan.share(index, len(self._pipes)), start))
        progress = dict.fromkeys(self._pipes, Progress())
        samples: dict[Connection[Any, Any], Samples] = {}
        is_stopping = False
        with _interrupts_noted() as was_interrupted:
            while len(samples) < len(self._pipes):
                ready = wait([pipe for pipe in self._pipes if pipe not in samples], _POLL_S)
                for pipe in self._pipes:
                    if pipe not in ready:
                        continue
                    message = _receive(pipe)
                    if isinstance(message, Progress):
                        progress[pipe] = message
                    else:
                        samples[pipe] = message
                goes_on = watch(sum(progress.values(), Progress()))
                self.is_interrupted = was_interrupted()
                if not is_stopping and (self.is_interrupted or not goes_on):
                    is_stopping = True
                    for pipe in self._pipes:
                        pipe.send(STOP)
        return Samples.merged([samples[pipe] for pipe in self._pipes])


@contextmanager
def started_fleet(target: Target, workload: Workload, processes: int) -> Iterator[Fleet]:
    """Start processes that load one server; leaving the context ends them.

    Raises PolyheadError if they cannot reach it.
    """
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    started: list[SpawnProcess] = []
    pipes: list[Connection[Any, Any]] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            process = context.Process(
                target=work, args=(theirs, target, workload, index), daemon=True
            )
            with _interrupts_ignored():  # what a new process inherits
                process.start()
            started.append(process)
            theirs.close()
        for pipe in pipes:
            message = _receive(pipe)
            assert message == READY, message
        yield Fleet(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.join(_JOIN_S)
            process.kill()  # nothing, usually: it has ended


def _receive(pipe: Connection[Any, Any]) -> Any:  # noqa: ANN401 - whatever a worker says
    try:
        message = pipe.recv()
    except EOFError:
        raise RuntimeError("a process that loads the server has ended by itself") from None
    if isinstance(message, Failure):
        raise (PolyheadError if message.is_expected else RuntimeError)(message.message)
    return message


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may, and is told of Ctrl-C
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Note a first Ctrl-C, where an exception would tear a message in two; raise a second one."""
    noted = False

    def note(*_: object) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
