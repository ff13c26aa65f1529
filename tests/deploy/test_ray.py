"""polyhead on a Ray cluster of two nodes: what callers see of its faults, and how it grows.

The contract suite says that it answers as a server does (tests/contract).
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import pytest

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.wire.tensors import to_tensor
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model

HAS_RAY = find_spec("ray") is not None
if HAS_RAY:
    from ray_cluster import cluster, running_replicas, serving_on_ray, wait_for_replicas

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not HAS_RAY, reason="needs Ray: runs in .venv-ray by `make deploy-test`"),
]
WIDE = AttentionConfig(embed_dim=64, num_heads=4)
MEDIUM, LONG = (np.ones((1, length, 64), np.float32) for length in (700, 16_000))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "wide", build_model(random_block(WIDE, seed=1)))
    return folder


@pytest.fixture(scope="module")
def nodes():
    with cluster() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def deployed(nodes, repository, tmp_path_factory):
    """Of at least two replicas, and up to four."""
    scaling = {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 2}
    scaling |= {"upscale_delay_s": 1, "downscale_delay_s": 5, "look_back_period_s": 11}
    settings = {"models": str(repository)}
    folder = tmp_path_factory.mktemp("serve")
    with serving_on_ray(nodes, folder, settings, autoscaling_config=scaling) as deployed:
        yield deployed


@pytest.fixture
def address(deployed):
    return deployed.address


class Stock:
    """A client of the grpc package, without retries."""

    def __init__(self, address):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(address, options)
        self._stub = attention_pb2_grpc.AttentionServiceStub(self._channel)

    def call(self, query, timeout=30):
        self._stub.Attend(pb.AttendRequest(model="wide", query=to_tensor(query)), timeout=timeout)

    def close(self):
        self._channel.close()


class Own:
    """polyhead.Client, which tries again what no server has answered."""

    transport = "unary"

    def __init__(self, address):
        self._client = polyhead.Client(address, transport=self.transport)

    def call(self, query, timeout=30):
        self._client.attend(query, model="wide", timeout=timeout)

    def close(self):
        self._client.close()


class Streaming(Own):
    """polyhead.Client, whose calls share a stream."""

    transport = "stream"


@contextmanager
def callers(address, *kinds, query=MEDIUM):
    """Let clients call all the time, each in a thread; yield how calls ended, by kind."""
    codes, stop = {kind: Counter() for kind in set(kinds)}, threading.Event()

    def run(kind):
        client = kind(address)
        while not stop.is_set():
            try:
                client.call(query)
                codes[kind]["OK"] += 1
            except grpc.RpcError as error:
                codes[kind][f"{error.code().name}: {error.details()}"] += 1
            except polyhead.PolyheadError as error:
                codes[kind][repr(error)] += 1
        client.close()

    threads = [threading.Thread(target=run, args=[kind]) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield codes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        print({kind.__name__: dict(counts) for kind, counts in codes.items()})


def until_answered(counts, more):
    wanted, give_up_at = counts["OK"] + more, time.monotonic() + 60
    while counts["OK"] < wanted:
        assert time.monotonic() < give_up_at, counts
        time.sleep(0.01)


def test_a_node_that_is_killed_costs_our_client_no_call(address, nodes):
    killed = nodes.worker.node_id
    with callers(address, *[Stock] * 8, *[Own] * 4) as codes:
        wait_for_replicas(4)  # so many that each node has two
        assert list(running_replicas().values()).count(killed) == 2
        until_answered(codes[Stock], 50)
        began = time.monotonic()
        nodes.kill_worker()
        until_answered(codes[Stock], 50)
        until_answered(codes[Own], 50)
        print(f"{time.monotonic() - began:.1f} s from the end of a node to 50 more answers")
        while killed in running_replicas().values():
            assert time.monotonic() < began + 60
            time.sleep(0.1)
        print(f"{time.monotonic() - began:.1f} s until Serve knows")
        nodes.add_worker()
        wait_for_replicas(4, within_s=90)
        print(f"{time.monotonic() - began:.1f} s until four replicas run")
    assert set(codes[Own]) == {"OK"}
    stock = codes[Stock]
    assert all(text.startswith(("OK", "UNAVAILABLE: ")) for text in stock), stock
    assert sum(stock.values()) - stock["OK"] <= 16, stock


def test_replicas_are_added_under_load_and_taken_away(address):
    with callers(address, *[Own] * 12) as codes:
        took = wait_for_replicas(4)
        until_answered(codes[Own], 20)
    shrunk = wait_for_replicas(2, within_s=90)
    print(f"4 replicas after {took:.1f} s of load, 2 again after {shrunk:.1f} s without")
    assert set(codes[Own]) == {"OK"}


def test_another_deployment_under_load_costs_no_call(deployed):
    with callers(deployed.address, *[Stock] * 2, *[Own] * 2, *[Streaming] * 2) as codes:
        until_answered(codes[Stock], 20)
        began = time.monotonic()
        deployed.deploy_again(max_queue_size=500)
        print(f"{time.monotonic() - began:.1f} s until only new replicas run")
        for counts in codes.values():
            until_answered(counts, 20)
    assert all(set(counts) == {"OK"} for counts in codes.values()), codes


def log_lines(nodes, field, value):
    """Return the lines of the replicas' logs that have this value."""
    folder = Path(nodes.cluster.head_node.get_logs_dir_path())
    files = [*folder.glob("worker-*.err"), *folder.glob("serve/replica_*.log")]
    lines = [line for file in files for line in file.read_text().splitlines()]
    parsed = [json.loads(line) for line in lines if line.startswith('{"time"')]
    return [line for line in parsed if line.get(field) == value]


@pytest.mark.parametrize("timeout", [2.0, None], ids=["deadline", "cancellation"])
def test_cancelled_calls_end_in_the_replica(address, nodes, timeout):
    with grpc.insecure_channel(address) as channel:
        request = pb.AttendRequest(
            model="wide", query=to_tensor(LONG), attn_weights=pb.AttnWeightsSelection(top_k=1)
        )
        name = f"nobody-{timeout}"
        stub, ids = attention_pb2_grpc.AttentionServiceStub(channel), [("x-request-id", name)]
        call = stub.Attend.future(request, timeout=timeout, metadata=ids)
        if timeout is None:
            threading.Timer(2.0, call.cancel).start()
        with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
            call.result()
    until = time.monotonic() + 10
    while not (lines := log_lines(nodes, "request_id", name)):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert lines[0]["code"] in {"CANCELLED", "DEADLINE_EXCEEDED"}
    assert lines[0]["took_ms"] < 4000


def test_rows_wait_for_their_reader(address, nodes):
    """What is not read is not computed: the call ends by its deadline before its last block."""
    query = to_tensor(np.ones((8, 1500, 64), np.float32))
    call = pb.AttendRequest(model="wide", query=query, attn_weights=pb.AttnWeightsSelection())
    request = pb.AttendRowsRequest(call=call, rows_per_block=50)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        stub = attention_pb2_grpc.AttentionServiceStub(channel)
        ids = [("x-request-id", "unread")]
        blocks = stub.AttendRows(request, timeout=8, metadata=ids)
        next(blocks)
        until = time.monotonic() + 20
        while not (lines := log_lines(nodes, "request_id", "unread")):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert lines[0]["code"] in {"CANCELLED", "DEADLINE_EXCEEDED"}
    assert lines[0]["blocks"] < 15
