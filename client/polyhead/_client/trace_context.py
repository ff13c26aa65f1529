"""Passes the caller's trace on to the server, where the program uses OpenTelemetry."""

from __future__ import annotations

import sys

_API = "opentelemetry.trace"

Metadata = tuple[tuple[str, str], ...]


def with_trace_context(metadata: Metadata) -> Metadata:
    """Add what OpenTelemetry's propagators send of the current context, such as traceparent.

    A program without OpenTelemetry has not imported it, so nothing is imported for it here.
    """
    if _API not in sys.modules:
        return metadata
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*metadata, *carrier.items())
