"""The processes that load a server, seen from the one that started them."""

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


@dataclass(frozen=True, slots=True)
class _Member:
    """A process, and the pipe to it. Both methods raise PolyheadError if it has ended."""

    process: SpawnProcess
    pipe: Connection[Any, Any]

    def send(self, message: object) -> None:
        try:
            self.pipe.send(message)
        except OSError:
            raise self._loss() from None

    def receive(self) -> Any:  # noqa: ANN401 - whatever a worker says
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            raise self._loss() from None
        if isinstance(message, Failure):
            raise (PolyheadError if message.is_expected else RuntimeError)(message.message)
        return message

    def _loss(self) -> PolyheadError:
        """Say how it ended: by a signal, as where memory runs out, or else with an exit code."""
        self.process.join(_JOIN_S)
        code = self.process.exitcode
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        return PolyheadError(f"a process that loads the server has ended by itself: {how}")


class Fleet:
    """Processes that are connected, and wait for plans."""

    def __init__(self, members: list[_Member]) -> None:
        self._members = members
        self.is_interrupted = False
        """Whether Ctrl-C ended a run."""

    def run(self, plan: Plan, watch: Callable[[Progress], bool] = lambda _: True) -> Samples:
        """Carry out a plan, shared among the processes, and merge what they measured.

        ``watch`` is told now and then how far they are, and gives whether to go on. Ctrl-C ends the
        run early, and a second one at once, as KeyboardInterrupt.
        """
        start = time.monotonic() + _LEAD_S
        members = {member.pipe: member for member in self._members}
        for index, member in enumerate(self._members):
            member.send((plan.share(index, len(members)), start))
        progress = dict.fromkeys(members, Progress())
        samples: dict[Connection[Any, Any], Samples] = {}
        is_stopping = False
        with _interrupts_noted() as was_interrupted:
            while len(samples) < len(members):
                ready = wait([pipe for pipe in members if pipe not in samples], _POLL_S)
                for pipe, member in members.items():
                    if pipe not in ready:
                        continue
                    message = member.receive()
                    if isinstance(message, Progress):
                        progress[pipe] = message
                    else:
                        samples[pipe] = message
                goes_on = watch(sum(progress.values(), Progress()))
                self.is_interrupted = was_interrupted()
                if not is_stopping and (self.is_interrupted or not goes_on):
                    is_stopping = True
                    for member in self._members:
                        member.send(STOP)
        return Samples.merged([samples[pipe] for pipe in members])


@contextmanager
def started_fleet(target: Target, workload: Workload, processes: int) -> Iterator[Fleet]:
    """Start processes that load one server; leaving the context ends them.

    Raises PolyheadError if they cannot reach it.
    """
    context = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
    members: list[_Member] = []
    try:
        for index in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, target, workload, index), daemon=True
            )
            with _interrupts_ignored():  # what a new process inherits
                process.start()
            members.append(_Member(process, ours))
            theirs.close()
        for member in members:
            message = member.receive()
            assert message == READY, message
        yield Fleet(members)
    finally:
        for member in members:
            member.pipe.close()
        for member in members:
            member.process.join(_JOIN_S)
            member.process.kill()  # nothing, usually: it has ended


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
