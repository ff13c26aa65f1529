"""Threads that runs take place in, beside the event loop.

A thread pool's and asyncio's futures, with their locks and callbacks, cost both sides 150 us of CPU
time for each run; this costs 90, as a run is one step of a queue and one callback of the loop.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerThreads"]

_T = TypeVar("_T")


class WorkerThreads:
    """Threads of one event loop: as many as there were runs at once, none of which waits."""

    def __init__(self, name: str) -> None:
        """``name``: what the threads' own begin with."""
        self._name = name
        self._threads: list[Thread] = []
        self._num_busy = 0
        self._runs: SimpleQueue[_Run | None] = SimpleQueue()

    def start(self, run: Callable[[], _T], tell: Callable[[_T | BaseException], None]) -> None:
        """Run this in a thread, and let the event loop tell what it gave or raised."""
        self._num_busy += 1
        if self._num_busy > len(self._threads):
            # a daemon: if the process ends without close, what runs does not keep it
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(Thread(target=self._serve, name=name, daemon=True))
            self._threads[-1].start()
        self._runs.put((asyncio.get_running_loop(), run, tell))

    def close(self) -> None:
        """Wait for what runs, and end the threads. Not to be called while more is started."""
        for _ in self._threads:
            self._runs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _serve(self) -> None:
        while (started := self._runs.get()) is not None:
            loop, run, tell = started
            result: object
            try:
                result = run()
            except BaseException as error:  # noqa: BLE001 - is told
                result = error
            with suppress(RuntimeError):  # the loop is closed, and nobody is left to be told
                loop.call_soon_threadsafe(self._end, tell, result)
            del started, run, tell, result  # they hold a request, and are not to wait for the next

    def _end(self, tell: Callable[[Any], None], result: object) -> None:
        self._num_busy -= 1
        tell(result)


_Run = tuple[asyncio.AbstractEventLoop, "Callable[[], Any]", "Callable[[Any], None]"]
