"""One process of a fleet: connects, and carries out plans as they come through its pipe."""

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
from polyhead.errors import PolyheadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

    from polyhead.bench.loops import Attend
    from polyhead.bench.payloads import Payload
    from polyhead.bench.plan import Plan, Target, Workload

__all__ = ["READY", "STOP", "Failure", "Progress", "make_client", "run_plan", "work"]

READY = "ready"
"""What a worker says when it is connected."""
STOP = "stop"
"""What a worker is told to end a run early; without a run it means nothing."""
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a worker is: measured requests."""

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
class Failure:
    """Why a worker ended."""

    message: str
    is_expected: bool
    """Whether it is a PolyheadError's message; else a traceback."""


def make_client(target: Target) -> AsyncClient:
    """Make a client of what is to be loaded. Raises InvalidArgumentError."""
    options: dict[str, Any] = {}
    if target.transport != "unary":
        options["transport"] = target.transport
    if target.connections != 1:
        options["connections"] = target.connections
    return AsyncClient(target.server, timeout=target.timeout_s, **options)


def work(pipe: Connection[Any, Any], target: Target, workload: Workload, index: int) -> None:
    """Be a worker, until the pipe's other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which says STOP
    try:
        with asyncio.Runner(loop_factory=_precise_loop) as runner:
            runner.run(_serve(pipe, target, workload, index))
    except (EOFError, OSError):
        pass  # the parent has gone
    except PolyheadError as error:
        pipe.send(Failure(str(error), is_expected=True))
    except Exception:  # noqa: BLE001 - the parent raises it
        pipe.send(Failure(traceback.format_exc(), is_expected=False))


def _precise_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop that wakes up on time: others round every wait up to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _serve(
    pipe: Connection[Any, Any], target: Target, workload: Workload, index: int
) -> None:
    payloads = itertools.cycle(make_payloads(workload, seed=index))
    async with make_client(target) as client:
        await client.server_info()  # so that no measured request waits for the connection
        # Nothing made so far will be garbage: collections during the load need not look at it.
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
    """Carry out a plan from `start` on, telling how far it is; STOP ends it early."""
    loop = asyncio.get_running_loop()
    origin = start + plan.warmup_s
    recorder = Recorder(
        origin,
        slow_s=math.inf if plan.slow_s is None else plan.slow_s,
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
            Progress(
                recorder.sent, recorder.answered_count, recorder.failed_count, recorder.slow_count
            )
        )
        if pipe.poll() and not load.done():
            pipe.recv()  # STOP: nothing else comes during a run
            is_stopped = load.cancel()
            await asyncio.wait([load])
    mark_cpu()
    cpu_s = cpu_marks[:2][-1] - cpu_marks[0]  # one mark alone: stopped in the warm-up
    now = loop.time()
    if is_stopped:
        ended = min(now, recorder.end)
    else:
        load.result()  # raises what failed
        ended = recorder.end if plan.duration_s is not None else recorder.last_arrival or now
    return recorder.samples(ended=ended, cpu_s=cpu_s, is_stopped=is_stopped)
