"""Send the caller's trace to the server, if the program uses OpenTelemetry."""

from __future__ import annotations

import sys

_API = "opentelemetry.trace"

Metadata = tuple[tuple[str, str], ...]


def with_trace_context(metadata: Metadata) -> Metadata:
    """Add the entries that OpenTelemetry's propagators send, such as traceparent.

    OpenTelemetry is imported here only if the program has imported it.
    """
    if _API not in sys.modules:
        return metadata
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return (*metadata, *carrier.items())
