"""Which load generator is used: h2load where it is installed, else Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness.h2load import H2load, has_h2load
from benchmarks.harness.python_load import RAW, WHOLE_STREAM, Driven

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall
    from benchmarks.harness.cases import Case

__all__ = ["GENERATOR", "repeat"]

GENERATOR = "h2load" if has_h2load() else "a Python process with grpc.aio"


def repeat(call: RawCall, in_flight: int, connections: int = 1) -> Case:
    """Repeat a call with so many in flight on each connection; a stream is one call."""
    if has_h2load():
        return H2load(call, 1 if call.is_stream else in_flight, connections)
    if call.is_stream:
        return Driven(call, connections, WHOLE_STREAM)
    return Driven(call, in_flight * connections, RAW)
