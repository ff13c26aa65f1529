"""Runs small calls of one template on arrays that stay in place.

Each run reads the same input arrays and writes the same output arrays, and the response's other
bytes are constant. Without gRPC, a call of one token of width 384 takes 0.70 of the time of a job,
and a call of 10 tokens of width 6 takes 0.51 (`python -m benchmarks.bound_call`).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from polyhead.v1.attention_pb2 import DATA_TYPE_FLOAT
from polyhead_server.call import AttentionOutputs, RunTimes, Timing
from polyhead_server.codec.response import pack_times
from polyhead_server.engine.statistics import RequestTiming, RunTimestamps
from polyhead_server.planning.embeddings import is_finite

if TYPE_CHECKING:
    from polyhead_server.codec.request import SingleRequest
    from polyhead_server.engine.model import Model
    from polyhead_server.planning.plan import CallPlan

__all__ = ["BoundCall"]


class BoundCall:
    """Runs the calls of one template, one at a time, on the event loop."""

    def __init__(self, model: Model, plan: CallPlan, request: SingleRequest) -> None:
        """Bind arrays for a request's template, and write the constant bytes of the response."""
        assert plan.plain_run is not None
        self._statistics = model.statistics
        self._batch_size = plan.call.batch_size
        self._timings = [RequestTiming(self._batch_size, 0.0, num_tokens=plan.num_tokens)]
        inputs = {
            name: (index, np.zeros(layout.shape, np.float32))
            for index, name, layout in plan.call.tensors
        }
        self._inputs = [(index, array, array.data.cast("B")) for index, array in inputs.values()]
        _, query = inputs["query"]
        _, key = inputs.get("key", (0, query))
        _, value = inputs.get("value", (0, key))
        self._run = model.bind(plan.plain_run.names, plan.plain_run.feeds((query, key, value)))
        output, attn_weights = (*self._run.outputs, None)[:2]
        outputs = AttentionOutputs(output, attn_weights, None, plan.plain_run.is_fused)
        timing = Timing(0.0, 0.0, self._batch_size)
        self._parts = request.write(model.execution_info, outputs, timing).parts
        last, times = self._parts[-1], pack_times(0.0, 0.0)
        self._has_times = isinstance(last, bytes) and last.endswith(times)
        if self._has_times:
            self._parts[-1:] = [last[: -len(times)], times]

    @classmethod
    def can_run(cls, model: Model, plan: CallPlan) -> bool:
        """Whether a call runs inline, as one plain run in float32 on the CPU."""
        call, plain_run = plan.call, plan.plain_run
        if plain_run is None or not plan.cost.runs_inline or plan.allow_non_finite:
            return False
        dtypes = {layout.dtype for _, _, layout in call.tensors} | {call.output_dtype}
        if call.weights is not None and call.weights.dtype is not None:
            dtypes.add(call.weights.dtype)
        return (
            dtypes == {DATA_TYPE_FLOAT}
            and call.query.ndim == 3
            and call.batch_size <= plain_run.max_sequences
            and model.providers[0] == "CPUExecutionProvider"
        )

    def run(self, request: SingleRequest) -> bytes | None:
        """Run one call; None if it must be refused or fails. A job then reports the error."""
        match, started = request.match, time.monotonic()
        for index, array, buffer in self._inputs:
            buffer[:] = match.payload(index)
            if not is_finite(array):
                return None
        begun = time.monotonic()
        try:
            self._run()
        except Exception:  # noqa: BLE001 - the job fails again, and reports the error
            return None
        ended = time.monotonic()
        request.times = RunTimes(started, started, ended)
        if self._has_times:
            self._parts[-1] = pack_times(0.0, (ended - begun) * 1e3)
        response = b"".join(self._parts)
        times = RunTimestamps(started, begun, ended, time.monotonic())
        self._statistics.add(self._batch_size, times, self._timings)
        return response
