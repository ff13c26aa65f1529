"""Traces of calls by OpenTelemetry, which is imported only with --tracing.

A call's span is made when it has ended, with the times that were measured for the log and for the
response. So a call that is not traced costs nothing, and one that is has no code around its steps.
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
"""Ends of the names of methods that only check whether the server is ready."""
_SERVERS_FAULT = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
"""Codes that OpenTelemetry's conventions call errors of a server."""
_MAX_CHARS = 256
"""Longest text of a caller's in a span."""


class Traces:
    """Sends traces to the provider that the program has set, or to the target of OTEL_ variables.

    The latter sends them by OTLP over gRPC. Making it raises StartupError without the extra `otel`.
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
        present = trace.get_tracer_provider()
        self._own = None if isinstance(present, TracerProvider) else _make_provider()
        self.tracer = CallTracer(self._own or present)

    def close(self, within_s: float) -> None:
        """Send the remaining spans; those that are not sent within ``within_s`` are lost.

        OpenTelemetry tries for up to 10 s for each batch to reach a collector.
        """
        if self._own is not None:
            # a daemon, because the process must not wait for it either
            sending = Thread(target=self._own.shutdown, name="polyhead-traces", daemon=True)
            sending.start()
            sending.join(within_s)


def _make_provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    given = OTELResourceDetector().detect().attributes
    resource = Resource.create(
        {"service.name": "polyhead", "service.version": __version__, **given}
    )
    # Traces.close does that, within a limit of time
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
        """Make the span of a call that has ended; its parent is the caller's.

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
            if code in _SERVERS_FAULT:
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
