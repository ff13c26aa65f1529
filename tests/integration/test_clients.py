"""Both clients against a real server: what a user does with them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polyhead
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.running import running_server


def embeddings(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_result_describes_its_execution(client):
    query = embeddings(3, 5, 16)
    result = client.attend(query, model="plain", request_id="tale-7")
    assert result.request_id == "tale-7"
    assert result.execution.model == "plain"
    assert result.execution.model_version == 1
    assert result.execution.provider == "CPUExecutionProvider"
    assert result.execution.kernel == "fused"
    assert result.execution.batch_size == 3
    assert result.execution.compute_ms > 0
    assert result.execution.queue_ms >= 0
    assert client.attend(query, model="plain", need_weights=True).execution.kernel == "explicit"


def test_models_describe_themselves(client, blocks):
    models = client.models()
    assert [model.name for model in models] == sorted(blocks)
    for model in models:
        config = blocks[model.name].config
        assert model.is_ready
        assert model.spec.embed_dim == config.embed_dim
        assert model.spec.num_heads == config.num_heads
        assert model.spec.head_dim == config.head_dim
        assert (model.spec.kdim, model.spec.vdim) == (config.kdim, config.vdim)
        assert model.spec.output_dim == config.output_dim
        assert model.spec.is_causal == config.is_causal
        assert model.spec.scale == config.scale
        assert model.spec.has_out_proj == config.has_out_proj
        assert model.provenance.weights_sha256 == blocks[model.name].weights_sha256()
        assert client.model(model.name) == model
    assert client.model("bert-0").provenance.family == "bert"


def test_server_info_has_the_limits_of_the_settings():
    given = {
        "max_request_bytes": 2_000_000,
        "max_response_bytes": 3_000_000,
        "max_scores_bytes": 4_000_000,
        "max_queue_size": 5,
        "max_queue_bytes": 6_000_000,
        "max_concurrent_runs": 2,
    }
    with running_server(**given) as server, polyhead.Client(server.target) as client:
        limits = client.server_info().limits
    assert {name: getattr(limits, name) for name in given} == given
    assert set(given) == set(type(limits).__slots__)


def test_newest_version_or_a_chosen_one(tmp_path):
    config = AttentionConfig(embed_dim=8, num_heads=2)
    for seed in (1, 2):
        write_model(tmp_path, "m", build_model(random_block(config, seed)))
    query = embeddings(1, 3, 8)
    with (
        running_server(tmp_path, versions="all") as server,
        polyhead.Client(server.target) as client,
    ):
        newest = client.attend(query, model="m")
        older = client.attend(query, model="m", version=1)
        assert newest.execution.model_version == 2
        assert older.execution.model_version == 1
        assert not np.array_equal(newest.output, older.output)
        assert [model.version for model in client.models()] == [1, 2]
    with running_server(tmp_path) as server, polyhead.Client(server.target) as client:
        assert client.attend(query, model="m").execution.model_version == 2
        with pytest.raises(polyhead.ModelNotFoundError, match="version 1"):
            client.attend(query, model="m", version=1)


def test_errors_of_client_and_server_are_equal(client):
    with pytest.raises(polyhead.InvalidArgumentError, match="query"):
        client.attend(embeddings(5, 16), model="plain")  # the client sees: no batch axis
    with pytest.raises(polyhead.InvalidArgumentError, match="embed_dim=16") as caught:
        client.attend(embeddings(1, 5, 17), model="plain")  # only the server knows the width
    assert caught.value.reason == "SHAPE_MISMATCH"
    assert "query.shape" in caught.value.fields
    with pytest.raises(polyhead.ModelNotFoundError, match="no model 'plane'; this server has"):
        client.attend(embeddings(1, 5, 16), model="plane")


def test_a_timeout_ends_the_call_and_not_the_server(client):
    # Long enough that no machine computes it within gRPC's shortest timeout, a millisecond.
    with pytest.raises(polyhead.DeadlineExceededError):
        client.attend(embeddings(1, 4096, 16), model="plain", timeout=1e-3)
    assert client.attend(embeddings(1, 4, 16), model="plain").output.shape == (1, 4, 16)


def test_one_client_serves_many_threads(client):
    queries = [embeddings(1, 1 + n % 5, 16, seed=n) for n in range(60)]
    with ThreadPoolExecutor(12) as threads:
        together = list(threads.map(lambda q: client.attend(q, model="plain").output, queries))
    for query, output in zip(queries, together, strict=True):
        np.testing.assert_array_equal(output, client.attend(query, model="plain").output)


def test_async_client_runs_calls_side_by_side(server, client):
    queries = [embeddings(1, 1 + n % 5, 16, seed=n) for n in range(60)]

    async def run():
        async with polyhead.AsyncClient(server.target) as connected:
            assert await connected.is_ready()
            calls = [connected.attend(query, model="plain", need_weights=True) for query in queries]
            return await asyncio.gather(*calls), await connected.models()

    results, models = asyncio.run(run())
    assert models == client.models()
    for query, result in zip(queries, results, strict=True):
        alone = client.attend(query, model="plain", need_weights=True)
        np.testing.assert_array_equal(result.output, alone.output)
        np.testing.assert_array_equal(result.attn_weights, alone.attn_weights)


def test_cancelling_a_task_cancels_its_call(server):
    async def run():
        async with polyhead.AsyncClient(server.target) as connected:
            call = asyncio.create_task(
                connected.attend(embeddings(16, 512, 16), model="plain", need_weights=True)
            )
            await connected.server_info()  # by now the call is on its way
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await connected.attend(embeddings(1, 2, 16), model="plain")

    assert asyncio.run(run()).output.shape == (1, 2, 16)


def test_a_missing_server_is_reported_plainly():
    with (
        polyhead.Client("127.0.0.1:1", timeout=5) as client,
        pytest.raises(polyhead.ServerUnavailableError, match="polyhead serve"),
    ):
        client.models()
