"""From start-up to SIGTERM: health, reflection, what a start-up refuses, draining."""

from __future__ import annotations

import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serving import command, serving

import polyhead
from polyhead_server.running import running_server

SERVING = health_pb2.HealthCheckResponse.SERVING


def check_health(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status


def services_by_reflection(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=10)
    return {service.name for service in answer.list_services_response.service}


def test_health_of_the_server_and_of_its_service(server):
    with grpc.insecure_channel(server.target) as channel:
        assert check_health(channel, "") == SERVING
        assert check_health(channel, "polyhead.v1.AttentionService") == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check_health(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_can_be_switched_off(server):
    with grpc.insecure_channel(server.target) as channel:
        assert "polyhead.v1.AttentionService" in services_by_reflection(channel)
    with (
        running_server(reflection=False) as silent,
        grpc.insecure_channel(silent.target) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        services_by_reflection(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_built_in_model_is_served_without_a_repository():
    with running_server() as server, polyhead.Client(server.target) as client:
        assert [model.name for model in client.models()] == ["river-bank"]
        result = client.attend(np.ones((1, 3, 6), np.float32), model="river-bank")
        assert result.output.shape == (1, 3, 6)


def test_sigterm_lets_a_running_call_finish_and_exits_0(repository):
    query = np.random.default_rng(0).standard_normal((256, 1024, 16), np.float32)
    with (
        serving("--models", repository, "--threads", 1) as server,
        polyhead.Client(server.address) as client,
        ThreadPoolExecutor(1) as caller,
    ):
        process = psutil.Process(server.process.pid)
        idle_s = process.cpu_times().user
        answer = caller.submit(client.attend, query, model="plain")
        # Receiving and decoding 16 MiB takes a tenth of this, the run some seconds.
        while process.cpu_times().user < idle_s + 0.5:
            assert not answer.done()

        server.process.send_signal(signal.SIGTERM)
        server.read_until("stopped")

        assert answer.result().output.shape == query.shape
        assert server.process.wait(timeout=30) == 0


def test_health_turns_before_the_port_closes():
    with (
        serving("--drain-delay-s", 1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=""), timeout=30
        )
        assert next(watched).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with polyhead.Client(server.address) as client:  # calls are still answered
            client.attend(np.ones((1, 2, 6), np.float32), model="river-bank")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--models", "no/such/folder"], ["--models", "there is no such folder"]),
        (["--models", __file__], ["--models", "is a file; expected a folder"]),
        (["--models", "EMPTY"], ["--models", "polyhead export"]),
        (["--port", "TAKEN"], ["Address already in use", "--port"]),
        (["--port", "70000"], ["--port", "65535"]),
        (["--provider", "cuda"], ["--provider cuda", "polyhead[gpu]"]),
        (["--provider-options", "oops"], ["--provider-options", "NAME=VALUE"]),
        (["--max-request-bytes", "many"], ["--max-request-bytes", "64MiB"]),
        (["--threads", "-1"], ["--threads", "at least 0"]),
    ],
)
def test_a_start_that_cannot_be_ends_with_the_fix(tmp_path, arguments, expected):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"EMPTY": str(tmp_path), "TAKEN": str(taken.getsockname()[1])}
        ended = subprocess.run(
            command("serve", "--port", 0, *(places.get(a, a) for a in arguments)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 2
    for words in expected:
        assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_is_logged_as_clients_take_it(repository):
    with serving("--models", repository, "--host", "::1") as server:
        assert server.address.startswith("[::1]:")
        with polyhead.Client(server.address) as client:
            assert client.is_ready()
