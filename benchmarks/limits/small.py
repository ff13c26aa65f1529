"""Small requests: what is around the attention, against gRPC that does nothing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call, own_infer_call, stream_call
from benchmarks.harness.cases import loads_in_turns, ratios
from benchmarks.harness.echo import Graph, as_stream, echoing, has_uvloop
from benchmarks.harness.generators import repeat
from benchmarks.harness.serving import serving
from benchmarks.limits.finding import Effort, Finding, Limit
from polyhead_models import builtin

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["measure_inference", "measure_stream", "measure_unary"]

MODEL, SEQ_LEN, EMBED_DIM = "river-bank", 10, 6
WORK = "10 tokens x 6, weights"
WITH_RUN = "echo that runs the graph"
MESSAGES = 256
"""Of each stream."""


def measure_unary(effort: Effort) -> list[Finding]:
    """Compare calls with an echo of as many bytes, one and 16 in flight."""
    request = _request()
    findings = []
    with ExitStack() as stack:
        served = stack.enter_context(serving(builtin.repository(), "--threads", "1"))
        call = attend_call(served, [request])
        calls = {"polyhead": call}
        loops = ["asyncio", *(["uvloop"] if has_uvloop() else [])]
        for loop in loops:
            echo = echoing(request, call.reply_bytes, loop)
            calls[f"echo, {loop}"] = stack.enter_context(echo)
        graph = Graph(_file(), SEQ_LEN, EMBED_DIM, need_weights=True)
        echo = echoing(request, call.reply_bytes, loops[-1], graph)
        calls[WITH_RUN] = stack.enter_context(echo)
        for in_flight in (1, 16):
            cases = {name: repeat(call, in_flight) for name, call in calls.items()}
            loads = loads_in_turns(cases, effort.rounds, effort.seconds)
            name = f"{WORK}; {in_flight} in flight"
            for loop in loops:
                cpu_ratios = ratios(loads["polyhead"], loads[f"echo, {loop}"], "cpu_ms")
                against = f"an empty grpc.aio echo, {loop}"
                if loop == "asyncio":
                    findings.append(Finding(name, against, Limit(1.3), cpu_ratios, loads))
                else:
                    findings.append(Finding(name, against, None, cpu_ratios))
            against = f"that echo, which runs the graph and does nothing else, {loops[-1]}"
            cpu_ratios = ratios(loads["polyhead"], loads[WITH_RUN], "cpu_ms")
            findings.append(Finding(name, against, None, cpu_ratios))
    return findings


def measure_inference(effort: Effort) -> list[Finding]:
    """Compare calls of the Open Inference Protocol with the same calls of AttentionService."""
    query = random_embeddings(SEQ_LEN, EMBED_DIM)
    with ExitStack() as stack:
        served = stack.enter_context(serving(builtin.repository(), "--threads", "1"))
        cases = {
            "Attend, 16 in flight": repeat(attend_call(served, [_request()]), 16),
            "ModelInfer, 16 in flight": repeat(own_infer_call(served, query, MODEL), 16),
        }
        loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    of_attend, of_infer = loads.values()
    cpu_ratios = ratios(of_infer, of_attend, "cpu_ms")
    return [Finding(f"{WORK}; ModelInfer", "Attend", Limit(1.15), cpu_ratios, loads)]


def measure_stream(effort: Effort) -> list[Finding]:
    """Compare a stream with one request a message with as many calls."""
    request = _request()
    with ExitStack() as stack:
        served = stack.enter_context(serving(builtin.repository(), "--threads", "1"))
        call, stream = attend_call(served, [request]), stream_call(served, request, MESSAGES)
        echo = stack.enter_context(echoing(request, stream.reply_bytes // MESSAGES))
        cases = {
            "calls, 16 in flight": repeat(call, 16),
            "stream, one request a message": repeat(stream, 1),
            "echo, calls, 16 in flight": repeat(echo, 16),  # to say how much of it is gRPC's
            "echo, stream": repeat(as_stream(echo, stream), 1),
        }
        loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    of_calls, of_stream, *_ = loads.values()
    cpu_ratios = ratios(of_stream, of_calls, "cpu_ms")
    return [Finding(f"{WORK}; AttendStream", "calls", Limit(0.45), cpu_ratios, loads)]


def _file() -> Path:
    return builtin.repository() / MODEL / "1" / "model.onnx"


def _request() -> bytes:
    return attend_bytes(random_embeddings(SEQ_LEN, EMBED_DIM), MODEL, need_weights=True)
