"""One process of a fleet: it connects, and carries out the plans that come through its pipe."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import selectors
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyhead._client.async_client import AsyncClient
from polyhead.bench.loops import Load
from polyhead.bench.payloads import make_payloads
from polyhead.bench.samples import Recorder, Samples
from polyhead.cli.shared_arguments import client_errors_name_flags
from polyhead.errors import PolyheadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from polyhead.bench.loops import Attend
    from polyhead.bench.payloads import Payload
    from polyhead.bench.plan import Plan, Target, Workload

__all__ = ["READY", "STOP", "WorkerFailure", "Progress", "make_client", "run_plan", "worker_main"]

READY = "ready"
"""Sent by a worker that has connected."""
STOP = "stop"
"""Sent to a worker to end its run early; ignored outside a run."""
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a worker is, in measured requests."""

    sent: int = 0
    answered: int = 0
    failed: int = 0
    slow: int = 0

    def __add__(self, other: Progress) -> Progress:
        return Progress(
            self.sent + other.sent,
            self.answered + other.answered,
            self.failed + other.failed,
            self.slow + other.slow,
        )


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """Sent by a worker before it ends because of an error."""

    message: str
    is_expected: bool
    """Whether the message is that of a PolyheadError; otherwise it is a traceback."""


def make_client(target: Target) -> AsyncClient:
    """Make a client of the target. Raises UsageError, which names the flag."""
    with client_errors_name_flags():
        return AsyncClient(
            target.server,
            timeout=target.timeout_s,
            transport=target.transport,
            connections=target.connections,
            **target.security,
        )


def worker_main(pipe: Connection[Any, Any], target: Target, workload: Workload, index: int) -> None:
    """Serve plans until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C as well, and sends STOP
    try:
        with asyncio.Runner(loop_factory=_precise_loop) as runner:
            runner.run(_carry_out_plans(pipe, target, workload, index))
    except (EOFError, OSError):
        pass  # the parent has closed the pipe or ended
    except PolyheadError as error:
        pipe.send(WorkerFailure(str(error), is_expected=True))
    except Exception:  # noqa: BLE001 - the parent raises it
        pipe.send(WorkerFailure(traceback.format_exc(), is_expected=False))


def _precise_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop that wakes up on time; with epoll, waits are rounded up to 1 ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _carry_out_plans(
    pipe: Connection[Any, Any], target: Target, workload: Workload, index: int
) -> None:
    payloads = itertools.cycle(make_payloads(workload, seed=index))
    async with make_client(target) as client:
        await client.server_info()  # connects now, and not during a measured request
        # Objects made so far stay: garbage collections during the load need not visit them.
        gc.collect()
        gc.freeze()
        pipe.send(READY)
        while True:
            message = await asyncio.to_thread(pipe.recv)
            if message != STOP:
                plan, start = message
                pipe.send(await run_plan(pipe, client.attend, payloads, plan, start))


async def run_plan(
    pipe: Connection[Any, Any],
    attend: Attend,
    payloads: Iterator[Payload],
    plan: Plan,
    start: float,
) -> Samples:
    """Carry out a plan from `start` on, and send Progress; STOP ends it early."""
    loop = asyncio.get_running_loop()
    origin = start + plan.warmup_s
    recorder = Recorder(
        origin,
        slow_after_s=math.inf if plan.slow_after_s is None else plan.slow_after_s,
        end=math.inf if plan.duration_s is None else origin + plan.duration_s,
    )
    cpu_marks: list[float] = []  # at the measurement's start and end

    def mark_cpu() -> None:
        cpu_marks.append(time.process_time())

    loop.call_at(origin, mark_cpu)
    if plan.duration_s is not None:
        loop.call_at(recorder.end, mark_cpu)
    load = asyncio.create_task(Load(attend, payloads, plan, recorder, start=start).run())
    is_stopped = False
    while not load.done():
        await asyncio.wait([load], timeout=_TICK_S)
        pipe.send(
            Progress(recorder.sent, recorder.num_answered, recorder.num_failed, recorder.num_slow)
        )
        if pipe.poll() and not load.done():
            pipe.recv()  # STOP: nothing else is sent during a run
            is_stopped = load.cancel()
            await asyncio.wait([load])
    mark_cpu()
    cpu_s = cpu_marks[:2][-1] - cpu_marks[0]  # a run stopped in the warm-up has one mark
    now = loop.time()
    if is_stopped:
        ended = min(now, recorder.end)
    else:
        load.result()  # raises the exception of the run
        ended = recorder.end if plan.duration_s is not None else recorder.last_arrival or now
    return recorder.to_samples(ended=ended, cpu_s=cpu_s, is_stopped=is_stopped)
