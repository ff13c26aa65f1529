"""Threads that read a repository, load its models and fetch them, each for a limited time.

Nothing can end a thread, and some loads never end, such as the load of a graph that folds a loop
without end. So a thread whose time is up is abandoned: its outcome is dropped. An abandoned thread
changes nothing that is served, because only the event loop does.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from polyhead_server.errors import FetchError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FetchThreads", "LoadThreads", "loads_go_on"]

_T = TypeVar("_T")


class _LimitedThreads(ABC):
    """Runs each piece of work in a thread of its own, which does not keep the process alive."""

    error: ClassVar[type[ModelFileError]]
    """The error for work that takes too long."""
    works: ClassVar[str]
    """Plural of the work's name, for messages."""
    timeout_message: ClassVar[str]

    def __init__(self, timeout_s: float, max_abandoned: int) -> None:
        """``max_abandoned``: most abandoned threads that may go on at once."""
        self._timeout_s = timeout_s
        self._max_abandoned = max_abandoned
        self._abandoned: set[threading.Thread] = set()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return the result of ``work``, or raise its error.

        Raises ``self.error`` if it takes too long, or if too many abandoned threads go on.
        """
        await self._wait_for_turn()
        self._abandoned = {thread for thread in self._abandoned if thread.is_alive()}
        if len(self._abandoned) >= self._max_abandoned:
            raise self.error(
                f"{len(self._abandoned)} {self.works} were given up and have not ended, so none "
                "begins; restart the server to end them"
            )
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_T] = loop.create_future()
        thread = _WorkThread(target=_run, args=(work, outcome), name="polyhead-load", daemon=True)
        thread.start()
        abandon_at = loop.time() + self._timeout_s
        try:
            await asyncio.wait({outcome}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            self._on_cancelled(thread, outcome, abandon_at)
            raise
        if outcome.done():
            return outcome.result()
        self._abandon(thread, outcome)
        raise self.error(self.timeout_message.format(seconds=self._timeout_s))

    async def _wait_for_turn(self) -> None:  # noqa: B027 - not every class waits
        """Wait until work may begin. By default it may begin at once."""

    @abstractmethod
    def _on_cancelled(
        self, thread: threading.Thread, outcome: asyncio.Future[Any], abandon_at: float
    ) -> None:
        """Handle a thread whose caller has cancelled. ``abandon_at``: when its time is up."""

    def _abandon(self, thread: threading.Thread, outcome: asyncio.Future[Any]) -> None:
        outcome.cancel()
        self._abandoned.add(thread)


class FetchThreads(_LimitedThreads):
    """Threads that fetch versions from a store.

    A fetch whose caller has cancelled is abandoned, because it may go on for half an hour and takes
    hardly any memory.
    """

    error = FetchError
    works = "fetches"
    timeout_message = "fetching it took more than {seconds:g} s, the server's --fetch-timeout-s"

    def _on_cancelled(
        self,
        thread: threading.Thread,
        outcome: asyncio.Future[Any],
        abandon_at: float,  # noqa: ARG002 - a fetch is abandoned at once
    ) -> None:
        self._abandon(thread, outcome)


class LoadThreads(_LimitedThreads):
    """Threads that read a repository and load its models.

    A load whose caller has cancelled keeps its turn until it ends or its time is up. Otherwise
    callers who cancel at once could have several models loaded at the same time, with the memory of
    all of them.
    """

    error = ModelFileError
    works = "loads"
    timeout_message = "loading it took more than {seconds:g} s, the server's --load-timeout-s"

    def __init__(self, timeout_s: float, max_abandoned: int) -> None:
        super().__init__(timeout_s, max_abandoned)
        self._cancelled: tuple[threading.Thread, asyncio.Future[Any], float] | None = None
        """The thread whose caller has cancelled, its outcome, and when its time is up."""

    async def _wait_for_turn(self) -> None:
        """Wait until a cancelled load ends, or abandon it when its time is up."""
        if self._cancelled is None:
            return
        thread, outcome, abandon_at = self._cancelled
        remaining_s = max(0.0, abandon_at - asyncio.get_running_loop().time())
        await asyncio.wait({outcome}, timeout=remaining_s)
        self._cancelled = None
        if not outcome.done():
            self._abandon(thread, outcome)

    def _on_cancelled(
        self, thread: threading.Thread, outcome: asyncio.Future[Any], abandon_at: float
    ) -> None:
        self._cancelled = thread, outcome, abandon_at
        outcome.add_done_callback(_retrieve_exception)


def _retrieve_exception(outcome: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a thread without a caller, because asyncio logs it otherwise."""
    if not outcome.cancelled():
        outcome.exception()


class _WorkThread(threading.Thread):
    """A thread of a class of its own, by which loads_go_on recognises it."""


def loads_go_on() -> bool:
    """Whether any load or fetch goes on, abandoned ones included."""
    return any(isinstance(thread, _WorkThread) for thread in threading.enumerate())


def _run(work: Callable[[], _T], outcome: asyncio.Future[_T]) -> None:
    """Run ``work`` in a thread, and pass its outcome to the event loop unless that is closed."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
        settle = partial(outcome.set_exception, error)
    else:
        settle = partial(outcome.set_result, result)

    def settle_unless_abandoned() -> None:
        if not outcome.done():
            settle()

    with suppress(RuntimeError):
        outcome.get_loop().call_soon_threadsafe(settle_unless_abandoned)
