"""Traces of calls by OpenTelemetry, which is imported only with --tracing.

A call's span is made after its end, from the times that were measured for the log and for the
response. So tracing needs no code around the steps of a call, and costs nothing if it is off.
"""

from __future__ import annotations

import time
from threading import Thread
from typing import TYPE_CHECKING, Any

import grpc

from polyhead._version import __version__
from polyhead_server.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer
    from opentelemetry.trace import TracerProvider as AnyProvider

    from polyhead_server.rpc.call_context import CallContext

__all__ = ["CallTracer", "Traces"]

_PROBES = ("/ServerLive", "/ServerReady")
"""Endings of the names of methods that check whether the server is ready. They have no spans."""
_SERVER_ERRORS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""Codes that are errors of the server by OpenTelemetry's conventions."""
_MAX_CHARS = 256
"""Longest text in a span that a caller can choose."""


class Traces:
    """Sends traces by the provider that the program has set, or else by one of its own.

    Its own provider sends them by OTLP over gRPC to the target in the OTEL_ variables. The
    constructor raises StartupError without the extra `otel`.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.trace import TracerProvider
        except ModuleNotFoundError as error:
            raise StartupError(
                f"--tracing needs {error.name}, which is not installed: "
                "pip install 'polyhead[otel]'"
            ) from error
        current = trace.get_tracer_provider()
        self._own = None if isinstance(current, TracerProvider) else _make_provider()
        self.tracer = CallTracer(self._own or current)

    def close(self, within_s: float) -> None:
        """Send the remaining spans. Those that are not sent within ``within_s`` are lost.

        OpenTelemetry tries for up to 10 s for each batch to reach a collector.
        """
        if self._own is not None:
            # a daemon thread, because the process must not wait for it at its end
            sending = Thread(target=self._own.shutdown, name="polyhead-traces", daemon=True)
            sending.start()
            sending.join(within_s)


def _make_provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    configured = OTELResourceDetector().detect().attributes
    resource = Resource.create(
        {"service.name": "polyhead", "service.version": __version__, **configured}
    )
    # Traces.close shuts it down, within a limit of time
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class CallTracer:
    """Makes a span of each call, with its time in the queue and its computation as children."""

    def __init__(self, provider: AnyProvider) -> None:
        from opentelemetry import propagate, trace

        self._tracer: Tracer = provider.get_tracer("polyhead", __version__)
        self._extract = propagate.extract
        self._trace = trace

    def record(self, call: CallContext, code: str, started_s: float, ended_s: float) -> None:
        """Make the span of a call that has ended. Its parent is the caller's span.

        ``code``: name of the gRPC code. Times are in seconds of the monotonic clock.
        """
        if call.name.startswith("grpc.") or call.name.endswith(_PROBES):
            return
        metadata = {k: v for k, v in call.metadata() if isinstance(v, str)}
        wall_s = time.time() - time.monotonic()
        span = self._tracer.start_span(
            call.name,
            self._extract(metadata),
            self._trace.SpanKind.SERVER,
            start_time=_ns(wall_s + started_s),
        )
        call.trace_id = f"{span.get_span_context().trace_id:032x}"
        if span.is_recording():
            span.set_attributes(_attributes(call, code))
            if code in _SERVER_ERRORS:
                span.set_status(self._trace.StatusCode.ERROR)
            self._record_run(call, self._trace.set_span_in_context(span), wall_s)
        span.end(_ns(wall_s + ended_s))

    def _record_run(self, call: CallContext, parent: Any, wall_s: float) -> None:  # noqa: ANN401 - OpenTelemetry's Context, not imported
        times = call.request.times if call.request else None
        if times is None:
            return
        for name, begin_s, end_s in (
            ("queue", times.arrived_s, times.started_s),
            ("compute", times.started_s, times.ended_s),
        ):
            child = self._tracer.start_span(name, parent, start_time=_ns(wall_s + begin_s))
            child.end(_ns(wall_s + end_s))


def _attributes(call: CallContext, code: str) -> dict[str, str | int]:
    service, _, method = call.name.partition("/")
    fields = call.log_fields | (call.request.log_fields() if call.request else {})
    attributes: dict[str, str | int] = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": grpc.StatusCode[code].value[0],
        "polyhead.model": str(fields.get("model", ""))[:_MAX_CHARS],
        "polyhead.request_id": str(fields.get("request_id", ""))[:_MAX_CHARS],
        "enduser.id": call.caller_name,
    }
    return {name: value for name, value in attributes.items() if value != ""}


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
