"""Chooses the load generator: h2load if it is installed, or else a Python process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness.h2load import H2load, has_h2load
from benchmarks.harness.python_load import RAW, WHOLE_STREAM, PythonLoad

if TYPE_CHECKING:
    from benchmarks.harness.calls import RawCall
    from benchmarks.harness.cases import Case

__all__ = ["GENERATOR", "repeat_call"]

GENERATOR = "h2load" if has_h2load() else "a Python process with grpc.aio"


def repeat_call(call: RawCall, in_flight: int, connections: int = 1) -> Case:
    """Make a case: a call repeated with ``in_flight`` on each connection. A stream is one call."""
    if has_h2load():
        return H2load(call, 1 if call.is_stream else in_flight, connections)
    if call.is_stream:
        return PythonLoad(call, connections, WHOLE_STREAM)
    return PythonLoad(call, in_flight * connections, RAW)
