"""Servers that fail to start, start twice, start inside event loops, or are stopped too early."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from endless_models import slow_to_load
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_calls import GOOD, SERVICE, call, open_channel, refused
from raw_http2 import RawConnection
from serving import command, serving

import polyhead
from polyhead_models import builtin
from polyhead_models.store import write_model
from polyhead_server.errors import StartupError
from polyhead_server.process.app import App
from polyhead_server.running import running_server
from polyhead_server.settings import ServerSettings


def our_threads():
    return {t for t in threading.enumerate() if t.name.startswith(("polyhead", "asyncio"))}


@pytest.fixture
def no_thread_left():
    before = our_threads()
    yield
    assert our_threads() == before


@pytest.fixture
def taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_repository_may_be_a_string_or_a_path_like(repository):
    class AnyPath:
        def __fspath__(self):
            return str(repository)

    for models in (str(repository), AnyPath()):
        with running_server(models) as server, polyhead.Client(server.target) as client:
            assert "plain" in [model.name for model in client.models()]


# ---------------------------------------------------------------- starts that fail


def test_a_port_that_is_taken(no_thread_left, taken_port):
    with pytest.raises(StartupError, match=f"{taken_port}: Address already in use; .*--port"):
        running_server(port=taken_port).__enter__()


def test_a_port_that_another_server_has():
    with running_server() as server:
        with pytest.raises(StartupError, match="Address already in use"):
            running_server(port=server.port).__enter__()
        with polyhead.Client(server.target) as client:
            assert client.is_ready()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("spoil", ["absent", "empty", "corrupt"])
def test_a_bad_repository_gives_the_port_back(no_thread_left, tmp_path, spoil):
    if spoil == "corrupt":
        (tmp_path / "bad" / "1").mkdir(parents=True)
        (tmp_path / "bad" / "1" / "model.onnx").write_bytes(b"no model")
    folder, port = tmp_path / "absent" if spoil == "absent" else tmp_path, free_port()
    with pytest.raises(StartupError, match="--models"):
        running_server(folder, port=port).__enter__()
    assert is_free(port)
    with running_server(port=port) as server, polyhead.Client(server.target) as client:
        assert client.is_ready()


def test_a_provider_that_is_not_there(no_thread_left, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(StartupError, match=r"--provider cuda: .*polyhead\[gpu\]"):
        running_server(provider="cuda").__enter__()


# ---------------------------------------------------------------- servers in a process


def attend(server):
    with polyhead.Client(server.target) as client:
        return client.attend(np.ones((1, 3, 6), np.float32), model="river-bank").output


def test_two_servers_in_one_process(no_thread_left):
    with running_server() as first, running_server() as second:
        assert first.port != second.port
        np.testing.assert_array_equal(attend(first), attend(second))
    with pytest.raises(polyhead.ServerUnavailableError):
        attend(first)


def test_grpc_waits_for_one_kind_of_call_only():
    """Each method that is registered with it costs every call (app.py)."""

    async def waiting_for():
        app = App(ServerSettings(port=0, drain_delay_s=0))
        await app.start()
        try:
            await asyncio.sleep(0)
            return [task for task in map(repr, asyncio.all_tasks()) if "_request_" in task]
        finally:
            await app.drain()

    tasks = asyncio.run(waiting_for())
    # as gRPC calls it, from the versions on that do so
    assert not [task for task in tasks if "_request_registered_call" in task]


def test_a_server_used_from_inside_an_event_loop(no_thread_left):
    async def serve_and_call():
        with running_server() as server:
            async with polyhead.AsyncClient(server.target) as client:
                query = np.ones((1, 3, 6), np.float32)
                calls = (client.attend(query, model="river-bank") for _ in range(50))
                return await asyncio.gather(*calls)

    assert len(asyncio.run(serve_and_call())) == 50


def test_an_error_in_the_body_stops_the_server_and_stays_itself(no_thread_left):
    with pytest.raises(KeyError, match="mine"), running_server() as server:
        raise KeyError("mine")
    assert is_free(server.port)


def test_a_watcher_of_health_does_not_hold_up_the_end():
    began = time.monotonic()
    with running_server(grace_s=60) as server:
        channel = open_channel(server)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    assert time.monotonic() - began < 30
    assert [answer.status for answer in watched] == [health_pb2.HealthCheckResponse.NOT_SERVING]
    channel.close()
    assert is_free(server.port)


def test_a_silent_connection_does_not_delay_the_end():
    with running_server(grace_s=60) as server:
        silent = socket.create_connection(("127.0.0.1", server.port))
        with polyhead.Client(server.target) as client:
            client.models()
        began = time.monotonic()
    assert time.monotonic() - began < 30
    silent.close()


# ---------------------------------------------------------------- while models load


@pytest.fixture
def endless(tmp_path):
    """A repository of one model that loads for minutes, in ONNX Runtime, which nothing can end."""
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "1" / "model.onnx").write_bytes(slow_to_load(num_products=1000))
    return tmp_path


@contextmanager
def starting(*arguments):
    """Start a process that does not serve yet."""
    process = subprocess.Popen(
        command("serve", "--log-format", "json", *arguments), stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_while_a_model_loads_for_ever_the_port_is_closed_and_a_signal_ends_the_server(endless):
    port = free_port()
    with starting("--port", port, "--models", endless, "--log-level", "debug") as process:
        assert json.loads(process.stderr.readline())["event"] == "loading"
        assert is_free(port)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["stopped before it served"]
    assert process.returncode == 0


def test_a_model_that_loads_for_ever_is_given_up_and_others_serve(endless):
    write_model(endless, "good", (builtin.repository() / "river-bank/1/model.onnx").read_bytes())
    port = free_port()
    arguments = "--port", port, "--models", endless, "--load-timeout-s", "0.5"
    with starting(*arguments) as process, polyhead.Client(f"127.0.0.1:{port}") as client:
        client.wait_until_ready(timeout=60)
        client.attend(np.ones((1, 3, 6), np.float32), model="good")
        states = {model.name: model.state_reason for model in client.models()}
        assert "more than 0.5 s, the server's --load-timeout-s" in states["slow"]
        process.terminate()
        assert process.wait(timeout=20) == 0


# ---------------------------------------------------------------- what a real process writes


def test_whatever_is_sent_the_log_is_lines_of_json(repository):
    """Line ends, ANSI and a megabyte in fields; half a preface; calls that are cancelled."""
    hostile = "\r\n\x1b[2J\x9b\u2028" + '{"event": "forged"}'
    with serving("--models", repository, "--log-level", "debug") as server:
        host, port = server.address.split(":")
        with grpc.insecure_channel(server.address) as channel:
            for data in (
                polyhead.v1.attention_pb2.AttendRequest(request_id=hostile).SerializeToString(),
                polyhead.v1.attention_pb2.AttendRequest(model=hostile).SerializeToString(),
                polyhead.v1.attention_pb2.AttendRequest(model="x" * (1 << 20)).SerializeToString(),
                polyhead.v1.attention_pb2.AttendRequest(
                    model=hostile,
                    request_id=hostile,
                    query={"dtype": 1, "shape": [1], "data": b"1234"},
                ).SerializeToString(),
                os.urandom(1000),
            ):
                refused(channel, data)
            for _ in range(20):
                channel.unary_unary(SERVICE + "Attend").future(GOOD).cancel()
                with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                    call(channel, GOOD, compression=grpc.Compression.Gzip)
            for sent in (
                b"PRI * HT",
                b"GET / HTTP/1.1\r\n\r\n",
                b"\0" * 100,
                b"PRI * HTTP/2.0\r\n",
            ):
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(sent)
            assert call(channel, GOOD)
        server.process.terminate()
        lines = server.process.stderr.read().splitlines()
        assert server.process.wait(timeout=60) == 0
    events = [json.loads(line) for line in lines]
    assert {event["logger"].partition(".")[0] for event in events} == {"polyhead"}
    assert {event["level"] for event in events} <= {"debug", "info"}
    assert "forged" not in {event["event"] for event in events}
    assert any(event.get("request_id") == hostile for event in events)
    assert max(map(len, lines)) < 4096
    assert [event["event"] for event in events][-2:] == ["draining", "stopped"]


def test_who_reads_nothing_does_not_hold_up_sigterm():
    """Watchers and calls whose replies nobody takes; the grace bounds what is waited for them."""
    everything = health_pb2.HealthCheckRequest()
    with (
        serving("--grace-s", 1) as server,
        RawConnection(server.address, window=0) as connection,
        grpc.insecure_channel(server.address) as channel,
    ):
        for path in ("/grpc.health.v1.Health/Watch", SERVICE + "ListModels"):
            connection.open(path, b"", end=True)
        heard = health_pb2_grpc.HealthStub(channel).Watch(everything, timeout=30)
        assert next(heard).status == health_pb2.HealthCheckResponse.SERVING
        server.process.terminate()
        assert next(heard).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.process.wait(timeout=20) == 0
