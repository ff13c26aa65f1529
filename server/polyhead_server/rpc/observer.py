"""Counts, logs and traces each call at its end."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from polyhead_server.errors import RequestError
from polyhead_server.limits import LogLimits
from polyhead_server.rpc.call_counts import CallCounts, Refusal
from polyhead_server.rpc.call_log import CallLog
from polyhead_server.rpc.status import code_of

if TYPE_CHECKING:
    from polyhead_server.rpc.call_context import CallContext, Logged
    from polyhead_server.rpc.call_counts import MethodCounts
    from polyhead_server.rpc.tracing import CallTracer

__all__ = ["CallObserver"]


class CallObserver:
    """The observer of all calls of a server. Only the event loop uses it."""

    def __init__(
        self,
        *,
        log_sample: float = 0.0,
        log_limits: LogLimits | None = None,
        tracer: CallTracer | None = None,
    ) -> None:
        """``log_sample``: see CallLog. ``tracer``: None means that calls are not traced."""
        self.counts = CallCounts()
        self.log = CallLog(log_sample, log_limits or LogLimits())
        self._tracer = tracer

    def call_ended(
        self,
        counts: MethodCounts,
        call: CallContext,
        started_s: float,
        error: BaseException | None,
    ) -> None:
        """Record the end of a call, with or without an error.

        ``started_s``: the time of its begin, on the monotonic clock.
        """
        ended_s = time.monotonic()
        code = "OK" if error is None else _code_of(error)
        counts.handled[code] += 1
        counts.seconds.add(ended_s - started_s)
        if call.caller_name:
            self.counts.add_caller(call.caller_name)
        if self._tracer is not None:
            self._tracer.record(call, code, started_s, ended_s)
        self.request_ended(call, started_s, call.request, error, call.log_fields)

    def request_ended(
        self,
        call: CallContext,
        started_s: float,
        request: Logged | None,
        error: BaseException | None,
        log_fields: dict[str, object] | None = None,
        *,
        times: int = 1,
    ) -> None:
        """Record the end of a request: the only one of a call, or one of a stream.

        ``times``: number of requests with the same fields.
        """
        if error is None:
            if self.log.has_successes:
                make_fields = partial(_fields, call, started_s, request, error, log_fields)
                self.log.answered(make_fields, times)
            return
        make_fields = partial(_fields, call, started_s, request, error, log_fields)
        reason = error.reason if isinstance(error, RequestError) else ""
        refusal = Refusal(call.name, _code_of(error), reason)
        self.counts.refused[refusal] += times
        self.log.refused(refusal, make_fields)


def _code_of(error: BaseException) -> str:
    """Return the name of the code with which a call fails."""
    return code_of(error).name if isinstance(error, RequestError) else "CANCELLED"


def _fields(
    call: CallContext,
    started_s: float,
    request: Logged | None,
    error: BaseException | None,
    log_fields: dict[str, object] | None,
) -> dict[str, object]:
    """Return the fields of a request's line in the log."""
    took_ms = _ms(time.monotonic() - started_s)
    fields: dict[str, object] = {"method": call.name, "took_ms": took_ms}
    fields["code"] = "OK" if error is None else _code_of(error)
    fields |= (request.log_fields() if request else {}) | (log_fields or {})
    if request is not None and (times := request.times) is not None:
        fields["queue_ms"] = _ms(times.started_s - times.arrived_s)
        fields["compute_ms"] = _ms(times.ended_s - times.started_s)
    fields["request_id"] = fields.get("request_id") or call.request_id
    if call.trace_id:
        fields["trace_id"] = call.trace_id
    if call.caller_name:
        fields["caller"] = call.caller_name
    if isinstance(error, RequestError):
        fields |= {"reason": error.reason, "why": error.message}
    return fields


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
