"""The worker threads in which batches run, while the event loop does everything else.

A run costs 90 us of CPU time here: one step of a queue, and one callback of the loop. With the
futures, locks and callbacks of a thread pool and asyncio it costs 150 us.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from polyhead_server.engine.subnormals import flush_subnormals

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["WorkerThreads"]

_T = TypeVar("_T")


class WorkerThreads:
    """The worker threads of one event loop.

    Invariant: there are as many threads as there were runs at the busiest moment, so a run never
    waits for a thread. The scheduler limits the number of runs.
    """

    def __init__(self, name: str) -> None:
        """``name``: prefix of the threads' names."""
        self._name = name
        self._threads: list[Thread] = []
        self._num_busy = 0
        self._runs: SimpleQueue[_Run | None] = SimpleQueue()

    def start(self, run: Callable[[], _T], on_done: Callable[[_T | BaseException], None]) -> None:
        """Call ``run`` in a thread, then ``on_done`` on the loop with its result or exception."""
        self._num_busy += 1
        if self._num_busy > len(self._threads):
            # Daemon threads, so that a process that ends without `close` does not wait for them.
            name = f"{self._name}_{len(self._threads)}"
            self._threads.append(Thread(target=self._serve, name=name, daemon=True))
            self._threads[-1].start()
        self._runs.put((asyncio.get_running_loop(), run, on_done))

    def close(self) -> None:
        """Wait for the runs, and end the threads. `start` must not be called any more."""
        for _ in self._threads:
            self._runs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _serve(self) -> None:
        flush_subnormals()
        while (item := self._runs.get()) is not None:
            loop, run, on_done = item
            outcome: object
            try:
                outcome = run()
            except BaseException as error:  # noqa: BLE001 - passed to on_done
                outcome = error
            with suppress(RuntimeError):  # the loop is closed, so nothing awaits the outcome
                loop.call_soon_threadsafe(self._end, on_done, outcome)
            # These names refer to the request, which must not stay in memory until the next run.
            del item, run, on_done, outcome

    def _end(self, on_done: Callable[[Any], None], outcome: object) -> None:
        self._num_busy -= 1
        on_done(outcome)


_Run = tuple[asyncio.AbstractEventLoop, "Callable[[], Any]", "Callable[[Any], None]"]
