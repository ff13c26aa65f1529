"""Decides when and where a request's run happens: at once, or in its turn on a worker thread."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from polyhead_server.call import Timing
from polyhead_server.cost import is_tiny
from polyhead_server.errors import OverloadedError
from polyhead_server.runs import RowsRun, Run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from polyhead_server.call import AttentionInputs, AttentionOutputs
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine import Model

__all__ = ["Scheduler"]

_T = TypeVar("_T")

# Coding so many bytes takes less time than handing them to another thread.
_INLINE_BELOW_BYTES = 256 << 10
_CODEC_THREADS = 2
_RETRY_AFTER_MS = 100


class Scheduler:
    """Runs requests, at most `max_concurrent_runs` at a time, the rest waiting in order of arrival.

    Belongs to one event loop. A request that is cancelled, or whose deadline passes, while it
    waits never runs; one that runs is ended at the next node of its graph.
    """

    def __init__(self, max_concurrent_runs: int, max_queue_size: int, max_queue_bytes: int) -> None:
        self._slots = asyncio.Semaphore(max_concurrent_runs)
        self._runners = ThreadPoolExecutor(max_concurrent_runs, "polyhead-run")
        self._coders = ThreadPoolExecutor(_CODEC_THREADS, "polyhead-codec")
        self._max_queue_size = max_queue_size
        self._max_queue_bytes = max_queue_bytes
        self._num_waiting = 0
        self._held_bytes = 0

    @contextmanager
    def holding(self, size: int, *, beside: int = 0) -> Iterator[None]:
        """Account for `size` bytes of a request, from its arrival to its response.

        `beside`: bytes that are accounted for the same request already. Raises OverloadedError if
        the server would hold too many bytes; one request alone always may.
        """
        if self._held_bytes > beside and self._held_bytes + size > self._max_queue_bytes:
            raise OverloadedError(
                f"the server holds {self._held_bytes} bytes of requests and streams already; try "
                "again shortly, send less at once, or raise its --max-queue-bytes",
                _RETRY_AFTER_MS,
            )
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size

    async def run(
        self, model: Model, inputs: AttentionInputs, deadline: Deadline
    ) -> tuple[AttentionOutputs, Timing]:
        """Run a request on its model.

        Raises OverloadedError if the queue is full, DeadlineError if the deadline passed before
        the run began.
        """
        arrived = time.monotonic()
        if is_tiny(model.config, inputs):
            deadline.check()
            return _timed(Run(model, inputs), arrived)
        self._check_queue()
        run = Run(model, inputs)
        return await _result(await self._start(run, arrived, deadline), run.cancel)

    async def run_rows(
        self, model: Model, inputs: AttentionInputs, rows_per_block: int, deadline: Deadline
    ) -> AsyncGenerator[tuple[int, AttentionOutputs, Timing], None]:
        """Run a request in blocks of rows: the place of each block's first row, and the block.

        Every block takes its turn among all requests, so that a long stream holds nobody up.
        Raises OverloadedError if the queue is full when the first arrives, DeadlineError if the
        deadline passed before a block began.
        """
        is_inline = is_tiny(model.config, inputs)
        if not is_inline:
            self._check_queue()
        rows = RowsRun(model, inputs, rows_per_block)
        while rows.has_more:
            arrived = time.monotonic()
            if is_inline:
                deadline.check()
                block, timing = _timed(rows.next_block, arrived)
            else:
                started = await self._start(rows.next_block, arrived, deadline)
                block, timing = await _result(started, rows.cancel)
            yield *block, timing

    async def offload(self, size: int, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function that takes time in proportion to `size` bytes, off the loop if large."""
        if size < _INLINE_BELOW_BYTES:
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._coders, function, *arguments)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._runners.shutdown()
        self._coders.shutdown()

    def _check_queue(self) -> None:
        if self._num_waiting >= self._max_queue_size and self._slots.locked():
            raise OverloadedError(
                f"{self._num_waiting} requests wait already, as many as this server lets wait; "
                "try again shortly, or raise its --max-queue-size",
                _RETRY_AFTER_MS,
            )

    async def _start(
        self, work: Callable[[], _T], arrived: float, deadline: Deadline
    ) -> asyncio.Future[tuple[_T, Timing]]:
        """Wait for a slot, and start work there."""
        self._num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_waiting -= 1
        try:
            deadline.check()
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._runners, _timed, work, arrived)
        except BaseException:
            self._slots.release()
            raise
        # The slot is free when the thread is, whatever has become of the caller by then.
        future.add_done_callback(self._free_slot)
        return future

    def _free_slot(self, ended: asyncio.Future[tuple[_T, Timing]]) -> None:
        self._slots.release()
        ended.exception()  # taken note of, or asyncio reports it where the caller has gone


async def _result(future: asyncio.Future[_T], cancel: Callable[[], None]) -> _T:
    """Wait for work to end; where the caller leaves, cancel it."""
    try:
        await asyncio.wait([future])  # which, cancelled, leaves the future alone
    except asyncio.CancelledError:
        cancel()
        raise
    return future.result()


def _timed(work: Callable[[], _T], arrived: float) -> tuple[_T, Timing]:
    started = time.monotonic()
    result = work()
    ended = time.monotonic()
    return result, Timing((started - arrived) * 1e3, (ended - started) * 1e3)
