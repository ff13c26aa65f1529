"""Models are reloaded while they are served: by SIGHUP, by a watch, by callers, in all workers."""

from __future__ import annotations

import os
import signal
import subprocess

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import command, serving

import polyhead
from polyhead_models import builtin
from polyhead_models.store import write_model
from polyhead_server.running import running_server

QUERY = np.ones((1, 3, 6), np.float32)


@pytest.fixture
def folder(tmp_path):
    add_version(tmp_path)
    return tmp_path


def add_version(folder):
    write_model(folder, "m", (builtin.repository() / "river-bank/1/model.onnx").read_bytes())


def write_bad_version(folder, version):
    (folder / "m" / str(version)).mkdir()
    (folder / "m" / str(version) / "model.onnx").write_bytes(b"no model")


def reload(address):
    """Run the command; return its exit status and what it writes."""
    ended = subprocess.run(
        command("models", "reload", "--server", address),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


def health_of_models(channel):
    request = health_pb2.HealthCheckRequest(service="polyhead.models")
    answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def test_callers_reload_what_has_changed_and_a_bad_version_leaves_the_one_before(folder):
    with (
        running_server(folder, model_control="reload") as server,
        polyhead.Client(server.target) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        assert client.reload_models() == []
        assert health_of_models(channel) == "SERVING"
        add_version(folder)
        changes = [(c.version, c.outcome) for c in client.reload_models()]
        assert changes == [(2, "loaded"), (1, "removed")]
        assert client.attend(QUERY, model="m").execution.model_version == 2

        write_bad_version(folder, 3)
        (change,) = client.reload_models()
        assert (change.name, change.version, change.outcome) == ("m", 3, "failed")
        assert "cannot read" in change.reason
        assert client.attend(QUERY, model="m").execution.model_version == 2
        assert {m.version: m.is_ready for m in client.models()} == {2: True, 3: False}
        assert health_of_models(channel) == "NOT_SERVING"
        assert client.is_ready()

        (folder / "m" / "2" / "model.onnx").write_bytes(b"no model either")
        client.reload_models()
        served = next(model for model in client.models() if model.version == 2)
        assert served.is_ready
        assert served.state_reason.endswith("it is served as loaded before")
        assert client.attend(QUERY, model="m").execution.model_version == 2


def test_callers_may_not_reload_unless_the_server_lets_them(server):
    with (
        polyhead.Client(server.target) as client,
        pytest.raises(polyhead.ModelUnavailableError, match="--model-control reload"),
    ):
        client.reload_models()


def test_a_watch_loads_what_is_new_and_a_hangup_tries_once_more_what_failed(folder):
    with serving("--models", folder, "--watch") as server:
        add_version(folder)
        assert server.read_until("model reloaded")["version"] == 2
        write_bad_version(folder, 3)
        for _ in range(2):
            event = server.read_until("model reloaded")
            while event["outcome"] != "failed":
                event = server.read_until("model reloaded")
            assert event["version"] == 3
            server.process.send_signal(signal.SIGHUP)
        with polyhead.Client(server.address) as client:
            assert client.attend(QUERY, model="m").execution.model_version == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need Linux")
def test_all_workers_reload_if_one_is_asked(folder):
    arguments = "--models", folder, "--workers", 2, "--model-control", "reload"
    with serving(*arguments) as server:
        add_version(folder)
        status, table = reload(server.address)
        assert (status, "m     2        loaded" in table) == (0, True), table
        workers = {server.read_until("model reloaded")["worker"] for _ in range(4)}
        assert workers == {1, 2}

        write_bad_version(folder, 3)
        server.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            assert "cannot read" in server.read_until("model reloaded")["reason"]
