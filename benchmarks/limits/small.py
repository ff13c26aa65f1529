"""Small requests: the service's cost around the attention, against gRPC servers that do nothing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import (
    attend_call,
    polyhead_infer_call,
    serialize_request,
    stream_call,
)
from benchmarks.harness.cases import measure_in_turns, ratios
from benchmarks.harness.echo import Graph, has_uvloop, start_echo, stream_like
from benchmarks.harness.generators import repeat_call
from benchmarks.harness.serving import start_server
from benchmarks.limits.finding import Effort, Finding, Limit
from polyhead_models import builtin

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["measure_inference", "measure_stream", "measure_unary"]

MODEL, SEQ_LEN, EMBED_DIM = "river-bank", 10, 6
WORKLOAD = "10 tokens x 6, weights"
EMPTY, WITH_RUN = "an empty grpc.aio echo", "an echo that runs the graph"
UNARY_LIMIT = Limit(1.4)
UNARY_NOTE = "the limit includes a run of the graph, which the empty echo does not do"
NUM_MESSAGES = 256
"""Number of messages in each stream."""


def measure_unary(effort: Effort) -> list[Finding]:
    """Compare calls with an echo of as many bytes, with one and 16 in flight."""
    request = _request()
    findings = []
    with ExitStack() as stack:
        served = stack.enter_context(start_server(builtin.repository(), "--threads", "1"))
        call = attend_call(served, [request])
        calls = {"polyhead": call}
        loops = ["asyncio", *(["uvloop"] if has_uvloop() else [])]
        for loop in loops:
            echo = start_echo(request, call.response_bytes, loop)
            calls[f"echo, {loop}"] = stack.enter_context(echo)
        graph = Graph(_file(), EMBED_DIM, [SEQ_LEN], need_weights=True)
        echo = start_echo(request, call.response_bytes, loops[-1], graph)
        calls[WITH_RUN] = stack.enter_context(echo)
        for in_flight in (1, 16):
            cases = {name: repeat_call(call, in_flight) for name, call in calls.items()}
            measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
            workload = f"{WORKLOAD}; {in_flight} in flight"
            to_case = {
                name: ratios(measurements["polyhead"], measurements[name], "cpu_ms")
                for name in cases
            }
            with_limit = Finding(
                workload,
                f"{EMPTY}, asyncio",
                UNARY_LIMIT,
                to_case["echo, asyncio"],
                measurements,
                UNARY_NOTE,
            )
            findings += [
                with_limit,
                *(
                    Finding(workload, f"{EMPTY}, {loop}", None, to_case[f"echo, {loop}"])
                    for loop in loops[1:]
                ),
                Finding(workload, f"{WITH_RUN}, {loops[-1]}", None, to_case[WITH_RUN]),
            ]
    return findings


def measure_inference(effort: Effort) -> list[Finding]:
    """Compare calls of the Open Inference Protocol with calls of AttentionService."""
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    with ExitStack() as stack:
        served = stack.enter_context(start_server(builtin.repository(), "--threads", "1"))
        cases = {
            "Attend, 16 in flight": repeat_call(attend_call(served, [_request()]), 16),
            "ModelInfer, 16 in flight": repeat_call(polyhead_infer_call(served, query, MODEL), 16),
        }
        measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    attend, infer = measurements.values()
    cpu_ratios = ratios(infer, attend, "cpu_ms")
    return [Finding(f"{WORKLOAD}; ModelInfer", "Attend", Limit(1.15), cpu_ratios, measurements)]


def measure_stream(effort: Effort) -> list[Finding]:
    """Compare a stream with one request per message with as many calls."""
    request = _request()
    with ExitStack() as stack:
        served = stack.enter_context(start_server(builtin.repository(), "--threads", "1"))
        call, stream = attend_call(served, [request]), stream_call(served, request, NUM_MESSAGES)
        echo = stack.enter_context(start_echo(request, stream.response_bytes // NUM_MESSAGES))
        cases = {
            "calls, 16 in flight": repeat_call(call, 16),
            "stream, one request a message": repeat_call(stream, 1),
            "echo, calls, 16 in flight": repeat_call(echo, 16),  # shows gRPC's share
            "echo, stream": repeat_call(stream_like(echo, stream), 1),
        }
        measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    in_calls, in_stream, *_ = measurements.values()
    cpu_ratios = ratios(in_stream, in_calls, "cpu_ms")
    return [Finding(f"{WORKLOAD}; AttendStream", "calls", Limit(0.45), cpu_ratios, measurements)]


def _file() -> Path:
    return builtin.repository() / MODEL / "1" / "model.onnx"


def _request() -> bytes:
    return serialize_request(random_embeddings(SEQ_LEN, EMBED_DIM), MODEL, need_weights=True)
