"""RepositoryIndex lists what lies in the repository's folder, loaded or not."""

from __future__ import annotations

import shutil

import pytest
from tritonclient_requests import stock

from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.inference import grpc_inference_pb2 as pb
from polyhead_server.running import running_server


@pytest.fixture
def folder(blocks, tmp_path):
    for _ in range(2):
        write_model(tmp_path, "plain", build_model(blocks["plain"]))
    return tmp_path


def index(server, *, ready=False):
    with stock.InferenceServerClient(server.target) as client:
        asked = pb.RepositoryIndexRequest(ready=ready)
        answer = client._client_stub.RepositoryIndex(asked)
    return [(m.name, m.version, m.state, m.reason.partition(":")[0]) for m in answer.models]


def test_what_is_not_loaded_is_listed_with_the_reason(folder):
    with running_server(folder, threads=1) as server:
        ready, older = ("plain", "2", "READY", ""), ("plain", "1", "UNAVAILABLE", "not loaded")
        assert index(server) == [older, ready]
        assert index(server, ready=True) == [ready]
        shutil.copytree(folder / "plain", folder / "later")
        (folder / "notes").mkdir()
        later = [("later", n, "UNAVAILABLE", "not loaded") for n in ("1", "2")]
        assert index(server) == [*later, older, ready]


def test_a_folder_that_is_gone_hides_nothing_that_is_served(folder):
    with running_server(folder, threads=1, versions="all") as server:
        served = [("plain", n, "READY", "") for n in ("1", "2")]
        assert index(server) == served
        shutil.rmtree(folder)
        assert index(server) == served
