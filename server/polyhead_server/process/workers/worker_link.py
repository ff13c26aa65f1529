"""The pipe between a worker and its supervisor, at the worker's end.

The worker sends that it serves, or why it cannot; then a beat every second, from its event loop, so
that a worker that hangs falls silent; and what reloads did. It receives the orders to stop and to
reload. Its end also becomes readable, as EOF, when the supervisor has died, and that means to stop.
"""

from __future__ import annotations

import asyncio
import select
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from polyhead_server.errors import ModelUnavailableError, RequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from multiprocessing.connection import Connection

    from polyhead_server.repository.model_loader import ModelChange

__all__ = [
    "Beat",
    "Failed",
    "FromWorker",
    "Reload",
    "ReloadWanted",
    "Reloaded",
    "Serving",
    "Stop",
    "SupervisorLink",
    "ToWorker",
]


@dataclass(frozen=True)
class Serving:
    """The worker serves; with the fields of the log event "serving"."""

    facts: Mapping[str, object]


@dataclass(frozen=True)
class Failed:
    """The worker cannot serve."""

    error: Exception


@dataclass(frozen=True)
class Beat:
    """The worker's event loop runs."""


@dataclass(frozen=True)
class ReloadWanted:
    """The order to make all workers reload their models, from a caller of this worker."""


@dataclass(frozen=True)
class Reloaded:
    """The result of a reload, in one worker or in all."""

    changes: list[ModelChange] = field(default_factory=list)
    problem: str = ""
    """Why nothing was reloaded."""


@dataclass(frozen=True)
class Stop:
    """The order to drain and end."""


@dataclass(frozen=True)
class Reload:
    """The order to reload models."""


FromWorker: TypeAlias = Serving | Failed | Beat | ReloadWanted | Reloaded
ToWorker: TypeAlias = Stop | Reload | Reloaded


class SupervisorLink:
    """The supervisor as a worker sees it."""

    def __init__(self, pipe: Connection, beat_s: float) -> None:
        self._pipe = pipe
        self._beat_s = beat_s
        self._answers: list[asyncio.Future[Reloaded]] = []
        """Callers who wait until all workers have reloaded, the first to be answered first."""

    def send(self, message: FromWorker) -> None:
        """Send a message, unless the supervisor has died, which is noticed by EOF."""
        with suppress(OSError):
            self._pipe.send(message)

    def listen(
        self, stop: Callable[[], None], reload: Callable[[], Awaitable[list[ModelChange]]]
    ) -> None:
        """Carry out orders as they arrive, on the running event loop."""
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def on_readable() -> None:
            try:
                message: ToWorker = self._pipe.recv()
            except (EOFError, OSError):
                message = Stop()
            if isinstance(message, Reload):
                task = loop.create_task(self._reload(reload))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            elif isinstance(message, Reloaded):
                answer = self._answers.pop(0)
                if not answer.done():  # its caller still waits
                    answer.set_result(message)
            else:
                loop.remove_reader(self._pipe.fileno())  # at EOF it is called in every turn
                stop()

        loop.add_reader(self._pipe.fileno(), on_readable)

    async def beat(self) -> None:
        """Send beats, for ever."""
        writable = select.poll()
        writable.register(self._pipe.fileno(), select.POLLOUT)
        while True:
            if writable.poll(0):  # a supervisor that is stopped must not stop the worker
                self.send(Beat())
            await asyncio.sleep(self._beat_s)

    async def reload_all(self) -> list[ModelChange]:
        """Reload the models of all workers. Raises ModelUnavailableError."""
        answer: asyncio.Future[Reloaded] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self.send(ReloadWanted())
        reloaded = await answer
        if reloaded.problem:
            raise ModelUnavailableError(reloaded.problem, "REPOSITORY_UNREADABLE")
        return reloaded.changes

    async def _reload(self, reload: Callable[[], Awaitable[list[ModelChange]]]) -> None:
        try:
            self.send(Reloaded(await reload()))
        except RequestError as error:
            self.send(Reloaded(problem=error.message))
