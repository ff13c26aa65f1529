"""Statistics add up over callers, protocols and batches."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tritonclient_requests import inputs_of, outputs_of, stock

import polyhead
from polyhead_models.graph import build_model
from polyhead_models.store import write_model
from polyhead_server.running import running_server

WIDTH = 16


@pytest.fixture
def served(blocks, tmp_path):
    """A server of its own, whose models nobody has asked yet."""
    for name in ("plain", "no-bias"):
        write_model(tmp_path, name, build_model(blocks[name]))
    with running_server(tmp_path, threads=1) as running:
        yield running


@pytest.fixture
def ask(served):
    """Ask for the statistics of a model, or of all."""

    def ask(name="", version=""):
        with stock.InferenceServerClient(served.target) as client:
            return list(client.get_inference_statistics(name, version).model_stats)

    return ask


def assert_adds_up(model, *, requests, sequences, failures=0):
    stats = model.inference_stats
    for duration in (stats.success, stats.queue, stats.compute_input, stats.compute_infer):
        assert duration.count == requests
    assert stats.compute_output.count == requests
    assert stats.fail.count == failures
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert stats.success.ns == pytest.approx(sum(part.ns for part in parts), abs=8)
    assert model.inference_count == sequences
    runs = {batch.batch_size: batch.compute_infer.count for batch in model.batch_stats}
    assert model.execution_count == sum(runs.values())
    assert sequences == sum(size * count for size, count in runs.items())
    assert model.last_inference > 1_600_000_000_000


def test_a_model_without_requests_has_empty_statistics(ask, served):
    models = ask()
    assert [model.name for model in models] == ["no-bias", "plain"]
    for model in models:
        assert (model.version, model.last_inference, model.execution_count) == ("1", 0, 0)
        assert not model.batch_stats
    assert [model.name for model in ask("plain", "1")] == ["plain"]
    with stock.InferenceServerClient(served.target) as client:
        for wrong in ({"model_name": "missing"}, {"model_name": "plain", "model_version": "3"}):
            with pytest.raises(stock.InferenceServerException) as caught:
                client.get_inference_statistics(**wrong)
            assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_requests_of_both_protocols(ask, served):
    rng = np.random.default_rng(3)
    requests = sequences = 0
    with (
        stock.InferenceServerClient(served.target) as triton,
        polyhead.Client(served.target) as client,
    ):
        for batch_size in (1, 2, 5):
            query = rng.standard_normal((batch_size, 4, WIDTH)).astype(np.float32)
            given = inputs_of({"query": query})
            triton.infer("plain", given)
            triton.infer("plain", given, outputs=outputs_of("attn_weights"))
            client.attend(query, model="plain", need_weights=True)
            requests += 3
            sequences += 3 * batch_size
        blocks = [*client.attend_rows(rng.random((2, 9, WIDTH), np.float32), model="plain",
                                      rows_per_block=4)]  # fmt: skip
        requests += len(blocks)
        sequences += 2 * len(blocks)
        many = [rng.random((1, 3, WIDTH), np.float32) for _ in range(100)]
        assert len([*client.attend_many(many, model="plain")]) == 100
        requests += 100
        sequences += 100
        with pytest.raises(polyhead.PolyheadError):
            client.attend(np.full((1, 2, WIDTH), np.nan, np.float32), model="plain")
    plain, other = ask("plain")[0], ask("no-bias")[0]
    assert_adds_up(plain, requests=requests, sequences=sequences, failures=1)
    assert other.inference_count == 0


def test_a_crowd(ask, served):
    """Count the requests of several threads, some of which share runs."""
    rng = np.random.default_rng(4)
    queries = [rng.random((1 + n % 3, 1 + n % 4, WIDTH), np.float32) for n in range(60)]

    def work(offset):
        with polyhead.Client(
            served.target, transport="stream" if offset % 2 else "unary"
        ) as client:
            for query in queries[offset::4]:
                client.attend(query, model="no-bias")

    workers = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    sequences = sum(len(query) for query in queries)
    assert_adds_up(ask("no-bias")[0], requests=len(queries), sequences=sequences)
