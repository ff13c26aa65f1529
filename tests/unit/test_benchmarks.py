"""The benchmarks' instruments: cases that are compared compute the same, and counts are right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from benchmarks.anatomy import STEPS, find_function
from benchmarks.blocks import random_embeddings
from benchmarks.gpu.polyhead_side import WholeCase, block_error, make_engine
from benchmarks.harness.calls import RawCall, serialize_request
from benchmarks.harness.echo import Graph, start_echo
from benchmarks.harness.h2load import H2load, has_h2load
from benchmarks.harness.python_load import PythonLoad
from benchmarks.harness.serving import ServerProcess
from benchmarks.harness.timing import cpu_clock, process_tree_clock
from benchmarks.limits.finding import Limit
from benchmarks.peers.inference_protocol import infer_request, raw_outputs
from benchmarks.peers.plain_graph import plain_graph
from benchmarks.repository import exported
from golden import GOLDEN

from polyhead_models.config import AttentionConfig
from polyhead_models.random_block import random_block
from polyhead_models.reference.attention import attend


def test_the_peers_graph_computes_the_same_as_the_block():
    block = random_block(AttentionConfig(embed_dim=24, num_heads=3), seed=1)
    query = np.random.default_rng(0).normal(size=(2, 5, 24)).astype(np.float32)
    session = ort.InferenceSession(plain_graph(block), providers=["CPUExecutionProvider"])
    output, attn_weights = session.run(["output", "attn_weights"], {"query": query})
    expected_output, expected_weights = attend(block, query)
    np.testing.assert_allclose(output, expected_output, atol=1e-5)
    np.testing.assert_allclose(attn_weights, expected_weights, atol=1e-6)


def test_the_benchmark_of_gpus_runs_on_cpus(tmp_path):
    engine, checkpoint = make_engine("cpu"), GOLDEN / "bert"
    errors = block_error(checkpoint, tmp_path, "float32", engine)
    assert 0 < max(errors.values()) < 1e-5
    case = WholeCase.of(checkpoint, tmp_path, "float32", engine)
    outputs = case.run(np.arange(6).reshape(1, 6) % case.vocab_size, all_weights=True)
    assert outputs.output is None
    assert [each.attn_weights.shape for each in outputs.weights.values()] == [(1, 4, 6, 6)] * 2


def test_inference_messages_are_parsed_as_written():
    query = np.arange(300, dtype=np.float32).reshape(1, 3, 100)
    # field 7 of a request holds raw bytes, as field 6 of a response does
    assert raw_outputs(infer_request("m" * 200, query), field=7) == [query.tobytes()]


def test_limits_bound_from_above_or_below():
    assert Limit(1.3).verdict(1.3) == Limit(3.0, is_minimum=True).verdict(3.0) == "reached"
    assert Limit(1.3).verdict(1.31) == Limit(3.0, is_minimum=True).verdict(2.99) == "not reached"


def test_a_process_tree_clock_counts_children():
    child = "[sys.executable, '-c', 'while True: pass']"
    code = f"import subprocess, sys; print(subprocess.Popen({child}).pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child_id = int(parent.stdout.readline())
    try:
        clock, own_clock = process_tree_clock(parent.pid), cpu_clock(parent.pid)
        start, own_start, deadline = clock(), own_clock(), time.monotonic() + 30
        while clock() - start < 0.05:
            assert time.monotonic() < deadline
        assert own_clock() - own_start < 0.05  # the parent waits
    finally:
        os.kill(child_id, signal.SIGKILL)
        parent.communicate(b"\n")


@pytest.fixture(scope="module")
def echo():
    with start_echo(b"request", 100) as call:
        yield call


def test_python_load_counts_the_requests_served(echo):
    measured = PythonLoad(echo, in_flight=3)(0.1)
    assert measured.requests >= 3
    assert measured.cpu_s > 0
    assert measured.p50_ms / 1000 <= measured.wall_s


@pytest.mark.skipif(not has_h2load(), reason="h2load is not installed")
def test_h2load_fails_if_bytes_are_missing(echo):
    assert H2load(echo, in_flight=2)(0.05).requests >= 4
    unknown = replace(echo, method="/benchmarks.Echo/Unknown")  # refused in a trailer, with 200 OK
    with pytest.raises(RuntimeError, match="bytes each where 105 were expected"):
        H2load(unknown, in_flight=2)(0.05)


def test_h2load_refuses_several_requests():
    call = RawCall(ServerProcess("localhost:1", 1), "/a/b", (b"1", b"2"))
    with pytest.raises(ValueError, match="cannot take turns"):
        H2load(call, in_flight=1)


def test_the_graph_of_an_echo_runs_at_the_length_of_the_request():
    with exported(embed_dim=64, num_heads=4) as model:
        run = Graph(model.file, 64, [2, 5]).load()
    for seq_len in (2, 5):
        [output] = run(serialize_request(random_embeddings(seq_len, 64), "bench"))
        assert output.shape == (1, seq_len, 64)


def test_anatomy_names_functions_that_exist():
    for paths in STEPS.values():
        for path in paths:
            owner, name = find_function(path)
            assert callable(getattr(owner, name))
