"""Decides when and where a request's run happens: at once, or in its turn on a worker thread."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from polyhead_server.call import Timing
from polyhead_server.engine import Run
from polyhead_server.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyhead_models.config import AttentionConfig
    from polyhead_server.call import AttentionInputs, AttentionOutputs
    from polyhead_server.deadline import Deadline
    from polyhead_server.engine import Model

__all__ = ["Scheduler"]

_T = TypeVar("_T")

# Handing work to a thread and back costs 0.3 to 0.6 ms of latency and of CPU time (measured with
# one token of width 384 and 768, inline against executor). What takes less is done at once: runs
# of this many multiply-adds, messages of this many bytes.
_INLINE_BELOW_MULTIPLY_ADDS = 1_000_000
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
    def holding(self, size: int) -> Iterator[None]:
        """Account for a request of `size` bytes, from its arrival to its response.

        Raises OverloadedError if the server would hold too many bytes; one request always may.
        """
        if self._held_bytes and self._held_bytes + size > self._max_queue_bytes:
            raise OverloadedError(
                f"the server holds {self._held_bytes} bytes of requests already; try again "
                "shortly, send less at once, or raise its --max-queue-bytes",
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
        run = Run(model, inputs)
        if _multiply_adds(model.config, inputs) < _INLINE_BELOW_MULTIPLY_ADDS:
            deadline.check()
            return _timed(run, arrived)
        await self._wait_for_slot()
        return await self._run_in_slot(run, arrived, deadline)

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

    async def _wait_for_slot(self) -> None:
        if self._num_waiting >= self._max_queue_size and self._slots.locked():
            raise OverloadedError(
                f"{self._num_waiting} requests wait already, as many as this server lets wait; "
                "try again shortly, or raise its --max-queue-size",
                _RETRY_AFTER_MS,
            )
        self._num_waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._num_waiting -= 1

    async def _run_in_slot(
        self, run: Run, arrived: float, deadline: Deadline
    ) -> tuple[AttentionOutputs, Timing]:
        try:
            deadline.check()
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._runners, _timed, run, arrived)
        except BaseException:
            self._slots.release()
            raise
        # The slot is free when the thread is, whatever has become of the caller by then.
        future.add_done_callback(self._free_slot)
        try:
            await asyncio.wait([future])  # which, cancelled, leaves the future alone
        except asyncio.CancelledError:
            run.cancel()
            raise
        return future.result()

    def _free_slot(self, ended: asyncio.Future[tuple[AttentionOutputs, Timing]]) -> None:
        self._slots.release()
        ended.exception()  # taken note of, or asyncio reports it where the caller has gone


def _timed(run: Run, arrived: float) -> tuple[AttentionOutputs, Timing]:
    started = time.monotonic()
    outputs = run()
    ended = time.monotonic()
    return outputs, Timing((started - arrived) * 1e3, (ended - started) * 1e3)


def _multiply_adds(config: AttentionConfig, inputs: AttentionInputs) -> int:
    """Count a run's multiply-adds: the projections, and the two products of attention."""
    batch_size, q_seq_len, embed_dim = inputs.query.shape
    kv_seq_len = inputs.key.shape[1]
    query_and_output = q_seq_len * (embed_dim + config.output_dim)
    key_and_value = kv_seq_len * (config.kdim + config.vdim)
    attention = 2 * q_seq_len * kv_seq_len
    return int(batch_size * config.inner_dim * (query_and_output + key_and_value + attention))
