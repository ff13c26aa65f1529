"""Models are loaded and unloaded by tritonclient, where the server allows that."""

from __future__ import annotations

import asyncio
import shutil
import threading

import numpy as np
import pytest
from tritonclient_requests import inputs_of, stock, stock_aio

import polyhead
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block
from polyhead_models.store import write_model
from polyhead_server.running import running_server

QUERY = np.random.default_rng(1).standard_normal((1, 4, 16)).astype(np.float32)


@pytest.fixture
def folder(blocks, tmp_path):
    for name in ("plain", "no-bias"):
        write_model(tmp_path, name, build_model(blocks[name]))
    return tmp_path


@pytest.fixture
def served(folder):
    with running_server(folder, threads=1, model_control="explicit") as running:
        yield running


@pytest.fixture
def triton(served):
    with stock.InferenceServerClient(served.target) as client:
        yield client


def states(triton):
    return {
        model.name: (model.state, model.reason)
        for model in triton.get_model_repository_index().models
    }


def refused(ask, status):
    with pytest.raises(stock.InferenceServerException) as caught:
        ask()
    assert caught.value.status() == f"StatusCode.{status}"
    return caught.value.message()


def test_a_model_is_unloaded_and_loaded_again(triton, served):
    triton.unload_model("plain")
    assert not triton.is_model_ready("plain")
    assert states(triton) == {"plain": ("UNAVAILABLE", "unloaded"), "no-bias": ("READY", "")}
    assert "was unloaded" in refused(
        lambda: triton.infer("plain", inputs_of({"query": QUERY})), "FAILED_PRECONDITION"
    )
    with polyhead.Client(served.target) as client:
        with pytest.raises(polyhead.PolyheadError, match="was unloaded"):
            client.attend(QUERY, model="plain")
        client.attend(QUERY, model="no-bias")
        triton.load_model("plain")
        client.attend(QUERY, model="plain")
    assert triton.is_model_ready("plain")
    (stats,) = triton.get_inference_statistics("plain").model_stats
    assert stats.inference_count == 1  # since it was loaded


def test_what_is_in_the_folder_now_is_loaded(triton, folder, blocks):
    before = triton.infer("plain", inputs_of({"query": QUERY})).as_numpy("output")
    other = random_block(blocks["plain"].config, seed=99)
    write_model(folder, "plain", build_model(other), overwrite=True)
    np.testing.assert_array_equal(
        triton.infer("plain", inputs_of({"query": QUERY})).as_numpy("output"), before
    )
    triton.load_model("plain")
    after = triton.infer("plain", inputs_of({"query": QUERY})).as_numpy("output")
    assert not np.array_equal(after, before)
    write_model(folder, "new", build_model(blocks["plain"]))
    assert "no model 'new'" in refused(lambda: triton.get_model_metadata("new"), "NOT_FOUND")
    triton.load_model("new")
    again = triton.infer("new", inputs_of({"query": QUERY})).as_numpy("output")
    np.testing.assert_array_equal(again, before)


def test_a_model_that_cannot_be_loaded_leaves_the_one_before(triton, folder):
    before = triton.infer("plain", inputs_of({"query": QUERY})).as_numpy("output")
    (folder / "plain" / "1" / "model.onnx").write_bytes(b"no model")
    assert "is damaged" in refused(lambda: triton.load_model("plain"), "FAILED_PRECONDITION")
    assert triton.is_model_ready("plain")
    after = triton.infer("plain", inputs_of({"query": QUERY})).as_numpy("output")
    np.testing.assert_array_equal(after, before)
    shutil.rmtree(folder / "plain")
    assert "no model 'plain' in the repository" in refused(
        lambda: triton.load_model("plain"), "NOT_FOUND"
    )
    assert triton.is_model_ready("plain")


@pytest.mark.parametrize("name", ["missing", "../outside", "", "a/b", "."])
def test_names_of_no_model(triton, name):
    status = "NOT_FOUND" if name == "missing" else "INVALID_ARGUMENT"
    refused(lambda: triton.load_model(name), status)
    refused(lambda: triton.unload_model(name), status)


def test_nothing_is_uploaded(triton):
    message = refused(
        lambda: triton.load_model("plain", config='{"backend": "x"}'), "INVALID_ARGUMENT"
    )
    assert "parameters.config" in message


def test_requests_go_on_while_models_come_and_go(triton, served):
    """None is answered by half a model, and those of other models notice nothing."""
    stop = threading.Event()
    failures = []

    def work(model):
        with polyhead.Client(served.target) as client:
            expected = None
            while not stop.is_set():
                try:
                    output = client.attend(QUERY, model=model).output
                except polyhead.PolyheadError as error:
                    if model == "no-bias" or "was unloaded" not in str(error):
                        failures.append(error)
                    continue
                expected = output if expected is None else expected
                if not np.array_equal(output, expected):
                    failures.append("another output")

    workers = [threading.Thread(target=work, args=(name,)) for name in ("plain", "no-bias")]
    for worker in workers:
        worker.start()
    for _ in range(10):
        triton.unload_model("plain")
        triton.load_model("plain")
    stop.set()
    for worker in workers:
        worker.join(60)
    assert not failures


def test_without_leave_nothing_is_loaded_or_unloaded(server):
    with stock.InferenceServerClient(server.target) as triton:
        for ask in (triton.load_model, triton.unload_model):
            message = refused(lambda ask=ask: ask("plain"), "FAILED_PRECONDITION")
            assert "--model-control explicit" in message
        assert triton.is_model_ready("plain")


def test_the_asynchronous_client_does_all_of_it_too(served, blocks):
    async def scenario():
        async with stock_aio.InferenceServerClient(served.target) as triton:
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert (await triton.get_server_metadata()).name == "polyhead"
            assert (await triton.get_model_metadata("plain")).name == "plain"
            assert (await triton.get_model_config("plain")).config.max_batch_size > 0
            result = await triton.infer("plain", inputs_of({"query": QUERY}))
            (stats,) = (await triton.get_inference_statistics("plain")).model_stats
            assert (stats.inference_count, stats.execution_count) == (1, 1)
            await triton.unload_model("plain")
            assert not await triton.is_model_ready("plain")
            listed = (await triton.get_model_repository_index()).models
            assert [(m.name, m.state) for m in listed] == [
                ("no-bias", "READY"),
                ("plain", "UNAVAILABLE"),
            ]
            with pytest.raises(stock.InferenceServerException):
                await triton.infer("plain", inputs_of({"query": QUERY}))
            await triton.load_model("plain")
            assert await triton.is_model_ready("plain")
            return result.as_numpy("output")

    output = asyncio.run(asyncio.wait_for(scenario(), 60))
    with polyhead.Client(served.target) as client:
        np.testing.assert_array_equal(output, client.attend(QUERY, model="plain").output)
