"""A watched store: what is new is loaded, and what could not be fetched is tried again."""

from __future__ import annotations

import asyncio
import threading

from polyhead_server.limits import FetchLimits, LoadLimits
from polyhead_server.repository.model_loads import ModelLoads
from polyhead_server.repository.remote.source import StoreSource
from polyhead_server.repository.repository import Repository


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for sets no event
        await asyncio.sleep(0.005)


def test_versions_that_could_not_be_fetched_are_tried_again(
    run_async, store, tmp_path, engine, onnx_bytes
):
    def fail(path, start, content):
        if path == "plain/2/model.onnx":
            raise ConnectionResetError("reset")
        return content

    async def scenario():
        store.write_version("plain", 1, {"model.onnx": onnx_bytes["plain"]})
        repository = Repository()
        source = StoreSource(store.url, tmp_path, FetchLimits(watch_interval_s=0.01))
        loads = ModelLoads(repository, source, engine, LoadLimits(), all_versions=False)
        await loads.load_all()
        watching = asyncio.create_task(loads.watch())
        store.change = fail
        store.write_version("plain", 2, {"model.onnx": onnx_bytes["causal"]})
        await until(lambda: store.num_reads("plain/2/model.onnx") >= 3)  # nothing has changed since
        assert repository.get("plain", 0).version == 1
        assert "cannot be fetched" in repository.problem("plain", 2)
        store.change = type(store).change
        await until(lambda: repository.get("plain", 0).version == 2)
        num_reads = len(store.reads)
        await asyncio.sleep(0.05)
        assert len(store.reads) == num_reads  # a look lists the store, and reads nothing
        watching.cancel()

    run_async(scenario())


def test_a_fetch_whose_caller_has_gone_keeps_no_other_model_waiting(
    run_async, store, tmp_path, engine, onnx_bytes
):
    go = threading.Event()

    async def scenario():
        store.write_version("other", 1, {"model.onnx": onnx_bytes["plain"]})
        repository = Repository()
        source = StoreSource(store.url, tmp_path, FetchLimits())
        loads = ModelLoads(repository, source, engine, LoadLimits(), all_versions=False)
        await loads.load_all()
        store.write_version("plain", 1, {"model.onnx": onnx_bytes["plain"]})
        store.change = lambda path, start, content: (
            content if path.startswith("other") else go.wait(30) and content
        )
        given_up = asyncio.create_task(loads.load("plain"))
        await until(lambda: store.num_reads("plain/1/SHA256SUMS"))
        given_up.cancel()
        await loads.load("other")
        go.set()
        await loads.load("plain")  # goes on where the thread of before is, or waits for it
        assert repository.get("plain", 0).version == 1
        assert store.num_reads("plain/1/model.onnx") == 1

    run_async(scenario())
