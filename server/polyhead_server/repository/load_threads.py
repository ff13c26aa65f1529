"""Threads that read a repository and load its models, each for a limited time.

Nothing can end a thread, and some loads never end, such as one of a graph that folds a loop without
end. So a thread whose time is up, or whose caller has gone, is abandoned: what it finds is dropped.
It changes nothing that is served, because only the event loop does.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from polyhead_server.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LoadThreads", "loads_go_on"]

_T = TypeVar("_T")


class LoadThreads:
    """Runs each piece of work in a thread of its own, which does not keep the process alive."""

    def __init__(self, timeout_s: float, max_abandoned: int) -> None:
        """``max_abandoned``: most threads that may go on after they were abandoned."""
        self._timeout_s = timeout_s
        self._max_abandoned = max_abandoned
        self._abandoned: set[threading.Thread] = set()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns, or raise what it raises.

        Raises ModelFileError if it takes too long, or if too many threads were abandoned.
        """
        self._abandoned = {thread for thread in self._abandoned if thread.is_alive()}
        if len(self._abandoned) >= self._max_abandoned:
            raise ModelFileError(
                f"{len(self._abandoned)} loads were given up and have not ended, so none begins; "
                "restart the server to end them"
            )
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        thread = _LoadThread(target=_run, args=(work, done), name="polyhead-load", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await done
        except TimeoutError:
            if not done.cancelled():
                raise  # the work's own
            raise ModelFileError(
                f"loading it took more than {self._timeout_s:g} s, the server's --load-timeout-s"
            ) from None
        finally:
            if done.cancelled():
                self._abandoned.add(thread)


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
