"""`polyhead serve` fetches models from a server that speaks S3, and from one like the hub."""

from __future__ import annotations

import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest
from fake_hub import fake_hub
from serving import serving

import polyhead
from polyhead_models import builtin
from polyhead_models.store import write_model

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(
        not (find_spec("moto") and find_spec("s3fs")),
        reason="needs the environment of constraints/stores.txt: make deploy-test",
    ),
]

SECRET = "s3cr3t-of-the-store"
GRAPH = (builtin.repository() / "river-bank/1/model.onnx").read_bytes()
QUERY = np.ones((1, 3, 6), np.float32)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    write_model(folder, "m", GRAPH)
    return folder


class Bucket:
    """A bucket of a server that speaks S3."""

    url = "s3://models/served"

    def __init__(self, endpoint):
        import s3fs

        self._files = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=endpoint)
        self._files.mkdir("models")

    def upload(self, version):
        """Copy a version's files, the list of checksums last, as docs/model-stores.md says."""
        for file in sorted(version.iterdir(), key=lambda file: file.name == "SHA256SUMS"):
            name = f"{version.parent.name}/{version.name}/{file.name}"
            self.write(name, file.read_bytes())

    def write(self, path, content):
        self._files.pipe(f"models/served/{path}", content)


@pytest.fixture
def endpoint(monkeypatch):
    from moto.server import ThreadedMotoServer

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield f"http://{host}:{port}"
    urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", data=b"", timeout=10).close()
    server.stop()


@pytest.fixture
def bucket(endpoint, repository):
    bucket = Bucket(endpoint)
    bucket.upload(repository / "m/1")
    return bucket


def num_events(server, name):
    return sum(event["event"] == name for event in server.events)


def version_of(server):
    with polyhead.Client(server.address) as client:
        return client.attend(QUERY, model="m").execution.model_version


def test_workers_fetch_from_s3_once_and_reload(bucket, repository, tmp_path):
    flags = "--models", bucket.url, "--models-cache", tmp_path / "cache"
    with serving(*flags, "--workers", 2, "--model-control", "reload") as server:
        assert version_of(server) == 1
        assert num_events(server, "fetched") == 1
        write_model(repository, "m", GRAPH)
        bucket.upload(repository / "m/2")
        with polyhead.Client(server.address) as client:
            changes = [(c.version, c.outcome) for c in client.reload_models()]
            assert changes == [(2, "loaded"), (1, "removed")]
            bucket.write("m/3/model.onnx", GRAPH)  # not yet uploaded to the end
            (change,) = client.reload_models()
            assert (change.version, change.outcome) == (3, "failed")
            assert "no SHA256SUMS" in change.reason
        assert version_of(server) == 2
    assert SECRET not in str(server.events)


def test_a_server_starts_while_s3_is_away(bucket, tmp_path, monkeypatch):
    flags = "--models", bucket.url, "--models-cache", tmp_path / "cache"
    with serving(*flags):
        pass
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with serving(*flags) as server:
        assert version_of(server) == 1
        [event] = [e for e in server.events if e["event"].startswith("store not listed")]
        assert "127.0.0.1:1" in event["error"]


def test_models_of_a_hub_are_fetched(repository, tmp_path, monkeypatch):
    with fake_hub(repository) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("HF_TOKEN", SECRET)
        flags = "--models", "hf://org/models", "--models-cache", tmp_path / "cache"
        with serving(*flags) as server:
            assert version_of(server) == 1
    assert SECRET not in str(server.events)
