"""The files for ghz and k6 fit the contract, and a server answers their request."""

from __future__ import annotations

import json
import re
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from write_request import make_request

from polyhead import Client
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead_server.running import running_server

ROOT = Path(__file__).parents[3]
LOADTEST = ROOT / "loadtest"
GHZ_KEYS = {
    *("name", "host", "insecure", "import-paths", "proto", "call", "data-file", "async", "rps"),
    *("connections", "concurrency", "total", "skipFirst", "timeout"),
}
"""Those that are used of the fields of ghz's runner.Config, by their names in JSON."""


@pytest.fixture(scope="module")
def server():
    with running_server() as server:
        yield server


def test_ghz_names_what_exists():
    config = json.loads((LOADTEST / "ghz.json").read_text())
    assert set(config) == GHZ_KEYS
    assert (ROOT / config["proto"]).exists()
    assert (ROOT / config["data-file"]).exists()
    service, method = config["call"].rsplit(".", 1)
    assert method in pb.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name


def test_k6_names_what_exists():
    script = (LOADTEST / "k6.js").read_text()
    [folders, file] = re.search(r'client\.load\(\["(.*)"\], "(.*)"\)', script).groups()
    assert (LOADTEST / folders / file).exists()
    [service, method] = re.search(r'client\.invoke\("(.*)/(.*)"', script).groups()
    assert service == pb.DESCRIPTOR.services_by_name["AttentionService"].full_name
    assert method in pb.DESCRIPTOR.services_by_name["AttentionService"].methods_by_name


def test_the_request_that_both_send_is_answered(server):
    request = ParseDict(json.loads((LOADTEST / "request.json").read_text()), pb.AttendRequest())
    with grpc.insecure_channel(server.target) as channel:
        response = attention_pb2_grpc.AttentionServiceStub(channel).Attend(request, timeout=30)
    assert response.output.shape == [1, 16, 6]


def test_the_request_is_what_the_script_writes(server):
    with Client(server.target) as client:
        request = make_request("river-bank", client.model("river-bank").spec, 16)
    assert request == json.loads((LOADTEST / "request.json").read_text())
