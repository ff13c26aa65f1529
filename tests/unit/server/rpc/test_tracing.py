"""The spans of a call: made with the times that were measured, below the caller's span."""

from __future__ import annotations

import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from polyhead_server.call import RunTimes
from polyhead_server.deadline import Deadline
from polyhead_server.errors import StartupError
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.rpc.tracing import CallTracer, Traces

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = (("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01"), ("grpc-trace-bin", b"\x00"))


class Request:
    def __init__(self, times):
        self.times = times

    def log_fields(self):
        return {"model": "m", "request_id": ""}


@pytest.fixture
def record():
    """Record a call that took 20 ms; return its context and the spans by their names."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def record(name="a.Service/Do", code="OK", metadata=PARENT, *, has_run=True):
        now = time.monotonic()
        times = RunTimes(now - 0.019, now - 0.012, now - 0.002) if has_run else None
        call = CallContext(
            name, Deadline(None), request=Request(times), read_metadata=lambda: metadata
        )
        CallTracer(provider).record(call, code, now - 0.02, now)
        return call, {span.name: span for span in exporter.get_finished_spans()}

    yield record
    provider.shutdown()


def ms(span):
    return round((span.end_time - span.start_time) / 1e6)


def test_a_call_is_a_span_with_queue_and_compute_below_it(record):
    call, spans = record()
    own, queue, compute = spans["a.Service/Do"], spans["queue"], spans["compute"]
    assert [ms(span) for span in (own, queue, compute)] == [20, 7, 10]
    assert queue.end_time == pytest.approx(compute.start_time, abs=1000)
    assert abs(own.end_time / 1e9 - time.time()) < 60
    assert own.kind is SpanKind.SERVER
    assert f"{own.parent.span_id:016x}" == SPAN_ID
    assert call.trace_id == TRACE_ID
    for child in (queue, compute):
        assert child.parent.span_id == own.context.span_id
        assert f"{child.context.trace_id:032x}" == TRACE_ID
    assert dict(own.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "a.Service",
        "rpc.method": "Do",
        "rpc.grpc.status_code": 0,
        "polyhead.model": "m",
    }


def test_a_call_without_a_trace_begins_one(record):
    call, spans = record(metadata=None)
    assert spans["a.Service/Do"].parent is None
    assert len(call.trace_id) == 32
    assert call.trace_id != TRACE_ID


@pytest.mark.parametrize(
    ("code", "status"),
    [("INVALID_ARGUMENT", StatusCode.UNSET), ("INTERNAL", StatusCode.ERROR)],
)
def test_only_faults_of_the_server_are_errors(record, code, status):
    _, spans = record(code=code, has_run=False)
    assert [*spans] == ["a.Service/Do"]
    assert spans["a.Service/Do"].status.status_code is status


def test_a_caller_that_does_not_sample_is_followed(record):
    unsampled = (("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-00"),)
    call, spans = record(metadata=unsampled)
    assert not spans
    assert call.trace_id == TRACE_ID


@pytest.mark.parametrize("name", ["grpc.health.v1.Health/Check", "a.Service/ServerLive"])
def test_probes_are_not_traced(record, name):
    assert not record(name)[1]


class Collector(grpc.GenericRpcHandler):
    """A collector of traces, as OTEL_EXPORTER_OTLP_ENDPOINT names one."""

    def __init__(self):
        self.spans = []
        self.resource = {}

    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(
            self._export, ExportTraceServiceRequest.FromString
        )

    def _export(self, request, _):
        for part in request.resource_spans:
            self.resource = {a.key: a.value.string_value for a in part.resource.attributes}
            self.spans += [span for scope in part.scope_spans for span in scope.spans]
        return b""


def test_otel_variables_say_where_traces_go(monkeypatch):
    collector = Collector()
    receiver = grpc.server(ThreadPoolExecutor(1), handlers=[collector])
    port = receiver.add_insecure_port("127.0.0.1:0")
    receiver.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
    # as in a program that has set no provider
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    traces = Traces()
    now = time.monotonic()
    traces.tracer.record(CallContext("a.Service/Do", Deadline(None)), "OK", now - 1, now)
    traces.close(10.0)  # sends what has not been sent
    receiver.stop(None).wait()
    assert [span.name for span in collector.spans] == ["a.Service/Do"]
    assert collector.resource["service.name"] == "polyhead"
    assert collector.resource["deployment.environment.name"] == "tests"


def test_a_collector_that_does_not_answer_holds_the_end_up_no_longer_than_allowed(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
        traces = Traces()
        began = time.monotonic()
        traces.tracer.record(CallContext("a.Service/Do", Deadline(None)), "OK", began, began)
        traces.close(0.1)
        assert time.monotonic() - began < 0.9
    # its tries use the module random, which hypothesis forbids others while it draws
    for thread in threading.enumerate():
        if thread.name == "polyhead-traces":
            thread.join(30)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(StartupError, match=r"pip install 'polyhead\[otel\]'"):
        Traces()
