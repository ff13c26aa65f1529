"""Threads that read a repository and load its models, each for a limited time.

Nothing can end a thread, and some loads never end, such as one of a graph that folds a loop without
end. So a thread whose time is up is abandoned: what it finds is dropped. It changes nothing that is
served, because only the event loop does.

A thread whose caller has gone keeps its turn until it ends or its time is up. Otherwise callers who
leave at once would have several models loaded at the same time, with the memory of all. A fetch is
abandoned then, because it takes hardly any memory and perhaps half an hour.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from polyhead_server.errors import FetchError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoadThreads", "loads_go_on"]

_T = TypeVar("_T")
_PLURALS = {"load": "loads", "fetch": "fetches"}


class LoadThreads:
    """Runs each piece of work in a thread of its own, which does not keep the process alive."""

    def __init__(
        self, timeout_s: float, max_abandoned: int, work: Literal["load", "fetch"] = "load"
    ) -> None:
        """``max_abandoned``: most threads that may go on after they were abandoned.

        ``work``: what the threads do.
        """
        self._work = work
        self._error = FetchError if work == "fetch" else ModelFileError
        self._timeout_s = timeout_s
        self._max_abandoned = max_abandoned
        self._abandoned: set[threading.Thread] = set()
        self._ownerless: tuple[threading.Thread, asyncio.Future[Any], float] | None = None
        """The thread whose caller has gone, its outcome, and the time at which it is abandoned."""

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or raise what it raises.

        Raises ModelFileError, or FetchError for a fetch, if it takes too long, or if too many
        threads were abandoned.
        """
        await self._wait_for_ownerless()
        self._abandoned = {thread for thread in self._abandoned if thread.is_alive()}
        if len(self._abandoned) >= self._max_abandoned:
            works = f"{len(self._abandoned)} {_PLURALS[self._work]}"
            raise self._error(
                f"{works} were given up and have not ended, so none begins; restart the server to "
                "end them"
            )
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        thread = _LoadThread(target=_run, args=(work, done), name="polyhead-load", daemon=True)
        thread.start()
        give_up_at = loop.time() + self._timeout_s
        try:
            await asyncio.wait({done}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            if self._work == "fetch":
                self._abandon(thread, done)
            else:
                self._ownerless = thread, done, give_up_at
                done.add_done_callback(_retrieve_exception)
            raise
        if done.done():
            return done.result()
        self._abandon(thread, done)
        raise self._error(
            f"{self._work}ing it took more than {self._timeout_s:g} s, the server's "
            f"--{self._work}-timeout-s"
        )

    async def _wait_for_ownerless(self) -> None:
        """Wait until the thread whose caller has gone ends, or abandon it when its time is up."""
        if self._ownerless is None:
            return
        thread, done, give_up_at = self._ownerless
        await asyncio.wait({done}, timeout=max(0.0, give_up_at - asyncio.get_running_loop().time()))
        self._ownerless = None
        if not done.done():
            self._abandon(thread, done)

    def _abandon(self, thread: threading.Thread, done: asyncio.Future[Any]) -> None:
        done.cancel()
        self._abandoned.add(thread)


def _retrieve_exception(done: asyncio.Future[Any]) -> None:
    """Ask for the exception of a thread without a caller, because asyncio logs it otherwise."""
    if not done.cancelled():
        done.exception()


class _LoadThread(threading.Thread):
    """A thread of its own class, so that it can be found."""


def loads_go_on() -> bool:
    """Whether any load has not ended, such as one that was given up."""
    return any(isinstance(thread, _LoadThread) for thread in threading.enumerate())


def _run(work: Callable[[], _T], done: asyncio.Future[_T]) -> None:
    """Run ``work`` in a thread, and give its outcome to the event loop unless that has closed."""
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
        settle = partial(done.set_exception, error)
    else:
        settle = partial(done.set_result, result)

    def settle_unless_given_up() -> None:
        if not done.done():
            settle()

    with suppress(RuntimeError):
        done.get_loop().call_soon_threadsafe(settle_unless_given_up)
