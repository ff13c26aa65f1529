"""The deployment that the contract's tests call, and clients of it."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import pytest
from tests.contract import models
from tests.contract.capabilities import LACKS
from tests.contract.deployments import STARTS

import polyhead
from polyhead.v1 import attention_pb2_grpc

KIND = os.environ.get("POLYHEAD_CONTRACT_DEPLOYMENT", "server")
SERVER = os.environ.get("POLYHEAD_CONTRACT_SERVER")
CA = os.environ.get("POLYHEAD_CONTRACT_CA")
TOKEN = os.environ.get("POLYHEAD_TOKEN")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def pytest_configure(config):
    assert KIND in LACKS, f"POLYHEAD_CONTRACT_DEPLOYMENT is {KIND}; expected one of {[*LACKS]}"


@pytest.fixture(autouse=True)
def _expect_what_is_lacking(request):
    for mark in request.node.iter_markers("requires"):
        [capability] = mark.args
        if reason := LACKS[KIND].get(capability):
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    """The address of the deployment."""
    if SERVER:
        yield SERVER
        return
    repository = tmp_path_factory.mktemp("repository")
    models.write_models(repository)
    with STARTS[KIND](repository, tmp_path_factory.mktemp("deployment")) as address:
        yield address


@pytest.fixture(scope="session")
def channel(target):
    """A channel of the grpc package, without retries of its own."""
    options = [*UNLIMITED, ("grpc.enable_retries", 0)]
    if CA:
        made = grpc.secure_channel(
            target, grpc.ssl_channel_credentials(Path(CA).read_bytes()), options
        )
    else:
        made = grpc.insecure_channel(target, options)
    with made as connected:
        yield connected if not TOKEN else grpc.intercept_channel(connected, _SendToken())


class _SendToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {TOKEN}")]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_stream = intercept_stream_stream = intercept_unary_unary


@pytest.fixture(scope="session")
def stub(channel):
    """The stub that protoc makes."""
    return attention_pb2_grpc.AttentionServiceStub(channel)


@pytest.fixture(scope="session")
def client_settings():
    """Arguments of polyhead.Client besides the address."""
    return {"tls": polyhead.TLSConfig(root_certificates=CA) if CA else None}


@pytest.fixture(scope="session")
def client(target, client_settings):
    with polyhead.Client(target, **client_settings) as connected:
        yield connected


@pytest.fixture(scope="session", autouse=True)
def _models_are_there(client):
    missing = {*models.CONFIGURATIONS, "contract-bert"} - {each.name for each in client.models()}
    assert not missing, f"write these models: python -m tests.contract.models FOLDER: {missing}"
