"""Requests that compute: what the service adds to ONNX Runtime, and what batching saves."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_bytes, attend_call
from benchmarks.harness.cases import Case, loads_in_turns, ratios
from benchmarks.harness.echo import Graph, echoing
from benchmarks.harness.generators import repeat
from benchmarks.harness.in_process import alone
from benchmarks.harness.python_load import Driven
from benchmarks.harness.serving import serving
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.repository import MODEL, exported

__all__ = ["measure_graph", "measure_mixed", "measure_tokens", "measure_weights"]

POLYHEAD, ALONE, ECHO = "polyhead", "in process", "raw bytes"
WITH_RUN = "raw bytes, running the graph"
MIXED_LENGTHS = (128, 4, 23, 256, 8, 45, 16, 181, 6, 91, 11, 64, 32)
"""4 to 256 in steps of about the square root of 2, shuffled."""


def measure_graph(effort: Effort) -> list[Finding]:
    """Compare requests that are mostly matrix products with the same products alone."""
    seq_len, in_flight = 128, 8
    query = random_embeddings(seq_len, EMBED_DIM)
    with exported(EMBED_DIM, NUM_HEADS) as model, serving(model.folder, "--threads", "1") as served:
        request = attend_bytes(query, MODEL)
        call = attend_call(served, [request])
        graph = Graph(model.file, seq_len, EMBED_DIM)
        with (
            echoing(request, call.reply_bytes) as echo,
            echoing(request, call.reply_bytes, graph=graph) as echo_with_run,
        ):
            cases = {
                POLYHEAD: repeat(call, in_flight),
                ALONE: alone(model.file, [query]),
                ECHO: repeat(echo, in_flight),  # to say how much of the rest is gRPC's
                WITH_RUN: repeat(echo_with_run, in_flight),
            }
            loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    work = f"{seq_len} x {EMBED_DIM}, {NUM_HEADS} heads; {in_flight} in flight"
    cpu_ratios = ratios(loads[POLYHEAD], loads[ALONE], "cpu_ms")
    floor = ratios(loads[POLYHEAD], loads[WITH_RUN], "cpu_ms")
    return [
        Finding(work, "ONNX Runtime in process", Limit(1.12), cpu_ratios, loads),
        Finding(work, "a raw-bytes server that runs the graph", None, floor),
    ]


def measure_weights(effort: Effort) -> list[Finding]:
    """Compare large answers with the same run, and with sending as many bytes, together."""
    seq_len, in_flight = 512, 2
    query = random_embeddings(seq_len, EMBED_DIM)
    request = attend_bytes(query, MODEL, need_weights=True)
    with exported(EMBED_DIM, NUM_HEADS) as model, serving(model.folder, "--threads", "1") as served:
        call = attend_call(served, [request])
        with echoing(request, call.reply_bytes) as echo:
            cases = {
                POLYHEAD: repeat(call, in_flight),
                ALONE: alone(model.file, [query], need_weights=True),
                ECHO: repeat(echo, in_flight),
            }
            loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    cpu_ratios = [
        own.cpu_ms / (run.cpu_ms + sent.cpu_ms)
        for own, run, sent in zip(loads[POLYHEAD], loads[ALONE], loads[ECHO], strict=True)
    ]
    megabytes = call.reply_bytes / 1e6
    work = f"{seq_len} x {EMBED_DIM}, {NUM_HEADS} heads, weights; {in_flight} in flight"
    against = f"ONNX Runtime in process, and a server of {megabytes:.1f} MB of raw bytes"
    return [Finding(work, against, Limit(1.15), cpu_ratios, loads)]


def measure_tokens(effort: Effort) -> list[Finding]:
    """Compare single tokens that come together with the same one by one."""
    embed_dim, num_heads, in_flight = 2048, 16, 64
    query = random_embeddings(1, embed_dim)
    with exported(embed_dim, num_heads) as model, serving(model.folder, "--threads", "1") as served:
        call = attend_call(served, [attend_bytes(query, MODEL)])
        cases = {POLYHEAD: repeat(call, in_flight), ALONE: alone(model.file, [query])}
        loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    work = f"1 x {embed_dim}, {num_heads} heads; {in_flight} in flight"
    cpu_ratios = ratios(loads[POLYHEAD], loads[ALONE], "cpu_ms")
    against = "ONNX Runtime in process, one by one"
    return [Finding(work, against, Limit(0.3), cpu_ratios, loads)]


def measure_mixed(effort: Effort) -> list[Finding]:
    """Compare requests of mixed lengths with the same ones, each alone: padding would show."""
    in_flight = 16
    queries = [random_embeddings(seq_len, EMBED_DIM) for seq_len in MIXED_LENGTHS]
    with exported(EMBED_DIM, NUM_HEADS) as model, serving(model.folder, "--threads", "1") as served:
        requests = [attend_bytes(query, MODEL) for query in queries]
        call = attend_call(served, requests)
        mean_bytes = sum(query.nbytes for query in queries) // len(queries)
        with echoing(requests[0], mean_bytes) as echo:
            # h2load repeats a single request
            cases: dict[str, Case] = {
                POLYHEAD: Driven(call, in_flight),
                ALONE: alone(model.file, queries),
                ECHO: Driven(replace(echo, messages=tuple(requests)), in_flight),
            }
            loads = loads_in_turns(cases, effort.rounds, effort.seconds)
    work = f"{min(MIXED_LENGTHS)} to {max(MIXED_LENGTHS)} x {EMBED_DIM}; {in_flight} in flight"
    cpu_ratios = ratios(loads[POLYHEAD], loads[ALONE], "cpu_ms")
    against = "ONNX Runtime in process, each alone"
    return [Finding(work, against, Limit(1.12), cpu_ratios, loads)]
