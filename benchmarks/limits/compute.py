"""Requests that compute: the service's cost beyond ONNX Runtime's, and the gain of batching."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.blocks import EMBED_DIM, NUM_HEADS, random_embeddings
from benchmarks.harness.calls import attend_call, serialize_request
from benchmarks.harness.cases import Case, measure_in_turns, ratios
from benchmarks.harness.echo import Graph, start_echo
from benchmarks.harness.generators import repeat_call
from benchmarks.harness.in_process import run_in_process
from benchmarks.harness.python_load import PythonLoad
from benchmarks.harness.serving import start_server
from benchmarks.limits.finding import Effort, Finding, Limit
from benchmarks.repository import MODEL, exported

__all__ = ["measure_graph", "measure_mixed", "measure_tokens", "measure_weights"]

POLYHEAD, IN_PROCESS, ECHO = "polyhead", "in process", "raw bytes"
WITH_RUN = "raw bytes, running the graph"
AGAINST_RUN = "a raw-bytes server that runs the graph"
NO_LIMIT = (
    "no limit, because a Python server's transport of the bytes alone takes it to 1.10 or more"
)
MIXED_LENGTHS = (128, 4, 23, 256, 8, 45, 16, 181, 6, 91, 11, 64, 32)
"""4 to 256 in steps of about the square root of 2, shuffled."""


def measure_graph(effort: Effort) -> list[Finding]:
    """Compare requests that are mostly matrix products with a server that runs the same graph."""
    seq_len, in_flight = 128, 8
    query = random_embeddings(seq_len, EMBED_DIM)
    with (
        exported(EMBED_DIM, NUM_HEADS) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        request = serialize_request(query, MODEL)
        call = attend_call(served, [request])
        graph = Graph(model.file, EMBED_DIM, [seq_len])
        with (
            start_echo(request, call.response_bytes) as echo,
            start_echo(request, call.response_bytes, graph=graph) as echo_with_run,
        ):
            cases = {
                POLYHEAD: repeat_call(call, in_flight),
                WITH_RUN: repeat_call(echo_with_run, in_flight),
                IN_PROCESS: run_in_process(model.file, [query]),
                ECHO: repeat_call(echo, in_flight),  # shows gRPC's share of the rest
            }
            measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    workload = f"{seq_len} x {EMBED_DIM}, {NUM_HEADS} heads; {in_flight} in flight"
    to_run = ratios(measurements[POLYHEAD], measurements[WITH_RUN], "cpu_ms")
    to_graph = ratios(measurements[POLYHEAD], measurements[IN_PROCESS], "cpu_ms")
    return [
        Finding(workload, AGAINST_RUN, Limit(1.06), to_run, measurements),
        Finding(workload, "ONNX Runtime in process", None, to_graph, note=NO_LIMIT),
    ]


def measure_weights(effort: Effort) -> list[Finding]:
    """Compare large responses with the run alone plus a server that sends as many bytes."""
    seq_len, in_flight = 512, 2
    query = random_embeddings(seq_len, EMBED_DIM)
    request = serialize_request(query, MODEL, need_weights=True)
    with (
        exported(EMBED_DIM, NUM_HEADS) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        call = attend_call(served, [request])
        with start_echo(request, call.response_bytes) as echo:
            cases = {
                POLYHEAD: repeat_call(call, in_flight),
                IN_PROCESS: run_in_process(model.file, [query], need_weights=True),
                ECHO: repeat_call(echo, in_flight),
            }
            measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    cpu_ratios = [
        total.cpu_ms / (run.cpu_ms + sent.cpu_ms)
        for total, run, sent in zip(*measurements.values(), strict=True)
    ]
    megabytes = call.response_bytes / 1e6
    workload = f"{seq_len} x {EMBED_DIM}, {NUM_HEADS} heads, weights; {in_flight} in flight"
    against = f"ONNX Runtime in process, and a server of {megabytes:.1f} MB of raw bytes"
    return [Finding(workload, against, Limit(1.15), cpu_ratios, measurements)]


def measure_tokens(effort: Effort) -> list[Finding]:
    """Compare single tokens in flight together with single tokens one by one."""
    embed_dim, num_heads, in_flight = 2048, 16, 64
    query = random_embeddings(1, embed_dim)
    with (
        exported(embed_dim, num_heads) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        call = attend_call(served, [serialize_request(query, MODEL)])
        cases = {
            POLYHEAD: repeat_call(call, in_flight),
            IN_PROCESS: run_in_process(model.file, [query]),
        }
        measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    workload = f"1 x {embed_dim}, {num_heads} heads; {in_flight} in flight"
    cpu_ratios = ratios(measurements[POLYHEAD], measurements[IN_PROCESS], "cpu_ms")
    against = "ONNX Runtime in process, one by one"
    return [Finding(workload, against, Limit(0.3), cpu_ratios, measurements)]


def measure_mixed(effort: Effort) -> list[Finding]:
    """Compare requests of mixed lengths with the same graph run for each. It would show padding."""
    in_flight = 16
    queries = [random_embeddings(seq_len, EMBED_DIM) for seq_len in MIXED_LENGTHS]
    with (
        exported(EMBED_DIM, NUM_HEADS) as model,
        start_server(model.folder, "--threads", "1") as served,
    ):
        requests = tuple(serialize_request(query, MODEL) for query in queries)
        call = attend_call(served, requests)
        mean_bytes = call.response_bytes // len(queries)
        graph = Graph(model.file, EMBED_DIM, MIXED_LENGTHS)
        with (
            start_echo(requests[0], mean_bytes) as echo,
            start_echo(requests[0], mean_bytes, graph=graph) as echo_with_run,
        ):
            # PythonLoad, because h2load repeats a single request
            cases: dict[str, Case] = {
                POLYHEAD: PythonLoad(call, in_flight),
                WITH_RUN: PythonLoad(replace(echo_with_run, messages=requests), in_flight),
                IN_PROCESS: run_in_process(model.file, queries),
                ECHO: PythonLoad(replace(echo, messages=requests), in_flight),
            }
            measurements = measure_in_turns(cases, effort.rounds, effort.seconds)
    workload = f"{min(MIXED_LENGTHS)} to {max(MIXED_LENGTHS)} x {EMBED_DIM}; {in_flight} in flight"
    to_run = ratios(measurements[POLYHEAD], measurements[WITH_RUN], "cpu_ms")
    to_graph = ratios(measurements[POLYHEAD], measurements[IN_PROCESS], "cpu_ms")
    return [
        Finding(workload, AGAINST_RUN, Limit(1.06), to_run, measurements),
        Finding(workload, "ONNX Runtime in process", None, to_graph, note=NO_LIMIT),
    ]
