"""Models of a store are served as those of a folder, and go on when the store does not answer."""

from __future__ import annotations

import numpy as np
import pytest
from model_store import model_store

import polyhead
from polyhead_models import builtin
from polyhead_server.errors import StartupError
from polyhead_server.running import running_server

QUERY = np.ones((1, 3, 6), np.float32)
GRAPH = (builtin.repository() / "river-bank/1/model.onnx").read_bytes()


@pytest.fixture
def store(tmp_path):
    with model_store() as store:
        store.write_version("m", 1, {"model.onnx": GRAPH})
        yield store


@pytest.fixture
def serve(store, tmp_path):
    def serve(**settings):
        settings = {"models_cache": tmp_path / "cache", "model_control": "reload"} | settings
        return running_server(store.url, **settings)

    return serve


def reason_of(client, version):
    (reason,) = [each.state_reason for each in client.models() if each.version == version]
    return reason


def outcomes(client):
    return [(change.name, change.version, change.outcome) for change in client.reload_models()]


def version_of(client, name="m"):
    return client.attend(QUERY, model=name).execution.model_version


def test_the_newest_version_is_fetched_and_serves(serve, store):
    store.write_version("m", 2, {"model.onnx": GRAPH})
    with serve() as server, polyhead.Client(server.target) as client:
        assert version_of(client) == 2
    assert store.num_reads("m/2/model.onnx") == 1
    assert store.num_reads("m/1/model.onnx") == 0
    with serve(versions="all") as server, polyhead.Client(server.target) as client:
        assert len(client.models()) == 2
    assert store.num_reads("m/2/model.onnx") == 1  # the cache had it
    assert store.num_reads("m/1/model.onnx") == 1


def test_new_versions_are_fetched_by_a_reload_and_others_serve_on(serve, store):
    with serve() as server, polyhead.Client(server.target) as client:
        assert outcomes(client) == []
        store.write_version("m", 2, {"model.onnx": GRAPH})
        store.write_version("other", 1, {"model.onnx": GRAPH})
        assert outcomes(client) == [("m", 2, "loaded"), ("m", 1, "removed"), ("other", 1, "loaded")]
        store.write_version("m", 3, {"model.onnx": GRAPH})
        store.write("m/3/model.onnx", GRAPH[:-1] + b"!")
        assert outcomes(client) == [("m", 3, "failed")]
        assert version_of(client) == 2
        assert "'model.onnx' differs from its checksum" in reason_of(client, 3)
        store.write_version("m", 4, {"model.onnx": GRAPH}, with_checksums=False)
        assert ("m", 4, "failed") in outcomes(client)
        assert "no SHA256SUMS" in reason_of(client, 4)
        assert version_of(client) == 2
        assert version_of(client, "other") == 1


def test_a_store_that_is_lost_or_empty_changes_nothing_that_is_served(serve, store):
    with serve() as server, polyhead.Client(server.target) as client:
        store.list_error = ConnectionError("https://me:secret@host is away")
        with pytest.raises(polyhead.ModelUnavailableError, match="served before is served on") as e:
            client.reload_models()
        assert "host" not in str(e.value)
        store.list_error = None
        store.remove("m")
        with pytest.raises(polyhead.ModelUnavailableError, match="has no model"):
            client.reload_models()
        assert version_of(client) == 1


def test_a_server_starts_without_its_store_from_the_cache(serve, store):
    with serve():
        pass
    store.list_error = ConnectionError("away")
    with serve() as server, polyhead.Client(server.target) as client:
        assert version_of(client) == 1
        store.list_error = None
        store.write_version("m", 2, {"model.onnx": GRAPH})
        assert ("m", 2, "loaded") in outcomes(client)
    store.remove("m/1")
    with serve():
        pass
    store.list_error = ConnectionError("away")
    with serve() as server, polyhead.Client(server.target) as client:
        assert [each.version for each in client.models()] == [2]


def test_without_any_model_the_server_does_not_start(serve, store):
    store.write("m/1/model.onnx", b"damaged")
    with pytest.raises(StartupError, match="no model there can be loaded"):
        serve().__enter__()
    store.remove("m")
    with pytest.raises(StartupError, match="--models faulty://store: no model there; expected"):
        serve().__enter__()
