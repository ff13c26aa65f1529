"""Holds a call at one of its steps in a real server, and looks at what the server accounts for."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps

import grpc
from call_log import EVERY_LINE
from grpc_health.v1 import health_pb2, health_pb2_grpc

from polyhead_server.codec import forward, request
from polyhead_server.codec.forward import ForwardRequest
from polyhead_server.codec.request import DecodedRequest
from polyhead_server.engine.model import Model
from polyhead_server.engine.whole_model import WholeModel
from polyhead_server.limits import InlineLimits
from polyhead_server.planning.plan_cache import PlanCache
from polyhead_server.process.app import App
from polyhead_server.rpc.observer import CallObserver
from polyhead_server.rpc.open_calls import OpenCall
from polyhead_server.running import running_server
from polyhead_server.scheduling import forward_job
from polyhead_server.scheduling.run import Run
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.attention import prepare, service
from polyhead_server.services.oip import request as infer_request

PATIENCE_S = 20


@dataclass(frozen=True)
class Step:
    """A function that a call passes through."""

    owner: object
    name: str
    place: str = "loop"
    """Where it runs: on the event loop, which then does nothing else; in a task of it; in a thread
    of the scheduler's."""


_RUN = Step(Model, "run_graph", "thread")
_READ = Step(DecodedRequest, "arrays", "thread")
_ALL = {
    "reserve": Step(Scheduler, "reserve_bytes"),
    "recognise": Step(PlanCache, "match"),
    "admit": Step(Scheduler, "run", "task"),
    "read": _READ,
    "run": _RUN,
    "encode": Step(request, "write_response", "thread"),
    "deliver": Step(Run, "finish"),
    "end": Step(CallObserver, "call_ended"),
}
_WRITE = {"write": Step(OpenCall, "write", "task")}
STEPS = {
    "Attend": _ALL | {"prepare": Step(prepare, "read_call")},
    "AttendStream": _ALL
    | _WRITE
    | {"prepare": Step(prepare, "read_call"), "end": Step(CallObserver, "request_ended")},
    "AttendRows": _ALL | _WRITE | {"prepare": Step(prepare, "read_call")},
    "Forward": _ALL
    | {
        "recognise": Step(service, "read_forward_call"),
        "prepare": Step(forward_job, "plan_forward", "thread"),
        "read": Step(ForwardRequest, "read", "thread"),
        "run": Step(WholeModel, "run", "thread"),
        "encode": Step(forward, "_write_response", "thread"),
    },
    "ModelInfer": _ALL
    | {
        "prepare": Step(infer_request, "_parse"),
        "encode": Step(infer_request, "write_response", "thread"),
    },
}
"""The steps of a call of each method, by what is done in them."""


class StepGate:
    """Holds the first call that comes to a step until it is opened. All others pass."""

    def __init__(self):
        self._is_taken = threading.Lock()
        self._arrived, self._opened = threading.Event(), threading.Event()

    def hold(self):
        if self._is_taken.acquire(blocking=False):
            self._arrived.set()
            assert self._opened.wait(PATIENCE_S)

    async def hold_task(self):
        if self._is_taken.acquire(blocking=False):
            self._arrived.set()
            assert await asyncio.to_thread(self._opened.wait, PATIENCE_S)

    @property
    def has_arrived(self):
        return self._arrived.is_set()

    def wait_for_arrival(self):
        assert self._arrived.wait(PATIENCE_S), "no call came to the step"

    def open(self):
        self._opened.set()


@contextmanager
def held_at(step, monkeypatch):
    """Hold the next call at a step; open the gate at the end."""
    gate, original = StepGate(), getattr(step.owner, step.name)

    @wraps(original)
    def hold(*given, **named):
        gate.hold()
        return original(*given, **named)

    @wraps(original)
    async def hold_task(*given, **named):
        await gate.hold_task()
        return await original(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(step.owner, step.name, hold_task if step.place == "task" else hold)
        try:
            yield gate
        finally:
            gate.open()


class Accounts:
    """What a server holds for its calls."""

    def __init__(self, app, channel):
        self._app = app
        stub = health_pb2_grpc.HealthStub(channel)
        self._check, self._watch = stub.Check, stub.Watch

    def held(self):
        """Return what is not back, by its name."""
        app, scheduler = self._app, self._app._scheduler
        load = scheduler.load()
        counts = {
            "bytes": load.held_bytes,
            "bytes of callers": sum(scheduler._memory._bytes_by_caller.values()),
            "places in the queue": load.num_waiting,
            "slots": load.num_running + scheduler._slots._num_abandoned,
            "open calls": len(app._calls),
            "calls of peers": sum(app._calls._num_by_peer.values()),
            "streams": sum(each._stream_shares._num_by_peer.total() for each in app._services),
        }
        return {name: count for name, count in counts.items() if count}

    def wait_for(self, condition):
        """Wait until a condition holds, in turns of the server's event loop."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < give_up_at, self.held()
            self._check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)

    def let_pass(self, seconds):
        """Wait while the event loop, or a call, is held."""
        with suppress(grpc.RpcError):
            list(self._watch(health_pb2.HealthCheckRequest(), timeout=seconds))

    def wait_until_nothing_is_held(self):
        self.wait_for(lambda: not self.held())


@contextmanager
def accounted_server(repository, **settings):
    """Start a server that runs nothing on its event loop, and yield it with its App."""
    apps, start = [], App.start

    async def recorded_start(app):
        apps.append(app)
        return await start(app)

    limits = {"inline_limits": InlineLimits(max_multiply_adds=0), "log_limits": EVERY_LINE}
    App.start = recorded_start
    try:
        with running_server(repository, threads=1, **(limits | settings)) as server:
            App.start = start
            yield server, apps[0]
    finally:
        App.start = start
