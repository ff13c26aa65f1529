"""Traces from a caller's span through the client to the server's spans."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import polyhead
from polyhead_server.running import running_server

QUERY = np.ones((1, 3, 6), np.float32)
SERVICE = "polyhead.v1.AttentionService/"
MADE_BY_A_CALL = {"Attend": 3, "AttendRows": 3, "ListModels": 1}
"""Number of spans of a call: its own and, where a model runs, queue and compute."""


class Spans(SimpleSpanProcessor):
    """Ended spans, to wait for: the server's may end after the client has its response."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter)
        self._ended = threading.Condition()

    def on_end(self, span):
        super().on_end(span)
        with self._ended:
            self._ended.notify_all()

    def take(self, count):
        """Wait for so many spans; return them by their names."""
        with self._ended:
            assert self._ended.wait_for(lambda: len(self._now()) >= count, 10)
        spans = {span.name: span for span in self._now()}
        self.exporter.clear()
        return spans

    def _now(self):
        return self.exporter.get_finished_spans()


@pytest.fixture(scope="module")
def spans():
    """The spans of this process: one provider for all tests, because it can be set only once."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    processor = Spans()
    trace.get_tracer_provider().add_span_processor(processor)
    yield processor
    processor.shutdown()


@pytest.fixture(scope="module")
def traced(spans):
    with running_server(tracing=True) as server:
        yield server


CALLS = {
    "Attend": lambda client: client.attend(QUERY, model="river-bank"),
    "AttendRows": lambda client: list(client.attend_rows(QUERY, model="river-bank")),
    "ListModels": lambda client: client.models(),
}


@pytest.mark.parametrize("method", CALLS)
def test_the_servers_spans_are_below_the_callers(traced, spans, method):
    with polyhead.Client(traced.target) as client:
        for _ in range(3):  # jobs, and runs on arrays that stay in place
            with trace.get_tracer("test").start_as_current_span("caller") as caller:
                assert client.is_ready()
                CALLS[method](client)
            ended = spans.take(1 + MADE_BY_A_CALL[method])
            own = ended[SERVICE + method]
            assert own.parent.span_id == caller.get_span_context().span_id
            if MADE_BY_A_CALL[method] > 1:
                for child in (ended["queue"], ended["compute"]):
                    assert child.parent.span_id == own.context.span_id
                    assert own.start_time <= child.start_time <= child.end_time <= own.end_time


def test_an_async_client_propagates(traced, spans):
    async def call():
        async with polyhead.AsyncClient(traced.target) as client:
            with trace.get_tracer("test").start_as_current_span("caller") as caller:
                await client.attend(QUERY, model="river-bank")
        return caller

    caller = asyncio.run(call())
    own = spans.take(4)[SERVICE + "Attend"]
    assert own.context.trace_id == caller.get_span_context().trace_id


def test_a_call_without_a_caller_begins_a_trace(traced, spans):
    with polyhead.Client(traced.target) as client:
        client.attend(QUERY, model="river-bank")
    assert spans.take(3)[SERVICE + "Attend"].parent is None


IMPORTS = """
import sys, polyhead, polyhead_server.running
polyhead.Client
print({name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "prometheus_client"})
"""


def test_client_and_server_import_nothing_for_metrics_and_traces():
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "set()\n"
