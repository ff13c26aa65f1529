"""Streams with a real server: results equal those of unary calls, also under concurrent load."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest

import polyhead
from polyhead._stream import pending_requests
from polyhead_server.running import running_server


@pytest.fixture(scope="module")
def streaming(server):
    with polyhead.Client(server.target, transport="stream") as client:
        yield client


def queries(count, width=16):
    rng = np.random.default_rng(count)
    return [rng.standard_normal((1, 1 + n % 7, width), dtype=np.float32) for n in range(count)]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"need_weights": True},
        {"need_weights": polyhead.Weights(heads=(0,), top_k=1), "need_output": False},
        {"output_dtype": "bfloat16", "request_id": "me"},
    ],
    ids=str,
)
def test_a_stream_returns_the_results_of_unary_calls(client, streaming, arguments):
    for query in queries(20):
        expected = client.attend(query, model="plain", **arguments)
        result = streaming.attend(query, model="plain", **arguments)
        for name in ("output", "attn_weights", "top_keys"):
            got, want = getattr(result, name), getattr(expected, name)
            assert (got is None) == (want is None)
            if got is not None:
                assert got.dtype == want.dtype
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        assert result.request_id == expected.request_id
        assert result.execution.kernel == expected.execution.kernel


def test_large_requests_go_through_a_stream(client, streaming):
    query = np.random.default_rng(1).standard_normal((16, 300, 16), dtype=np.float32)
    expected = client.attend(query, model="plain", need_weights=True)
    result = streaming.attend(query, model="plain", need_weights=True)
    np.testing.assert_allclose(result.output, expected.output, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.attn_weights, expected.attn_weights, rtol=0, atol=1e-6)


def test_many_small_responses_may_exceed_the_limit_together(repository):
    """A message carries several responses; the server's limit is for each response."""
    with (
        running_server(repository, threads=1, max_response_bytes=4096) as server,
        polyhead.Client(server.target) as client,
    ):
        asked = queries(300)
        results = list(client.attend_many(asked, model="plain"))
    assert [result.output.shape for result in results] == [query.shape for query in asked]


FAULTS = {
    "no such model": {"model": "plane"},
    "no such version": {"version": 9},
    "another width": {"query": np.ones((1, 2, 17), np.float32)},
    "not a number": {"query": np.full((1, 2, 16), np.nan, np.float32)},
    "no such head": {"need_weights": polyhead.Weights(heads=99)},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_refusals_are_the_same_as_for_unary_calls(client, streaming, fault):
    arguments = {"query": np.ones((1, 2, 16), np.float32), "model": "plain"} | fault
    errors = []
    for one in (client, streaming):
        with pytest.raises(polyhead.PolyheadError) as caught:
            one.attend(**arguments)
        errors.append(caught.value)
    expected, error = errors
    assert type(error) is type(expected)
    assert str(error) == str(expected)
    for name in ("code", "reason", "fields", "limits", "figures", "retry_after_s"):
        assert getattr(error, name) == getattr(expected, name)


def test_five_hundred_tasks_get_their_own_results_while_others_fail(server, client):
    """Each request consists of a constant of its own, and so does its result."""
    model = "no-bias"

    def arguments(n):
        key = np.random.default_rng(n).standard_normal((1, 1 + n % 9, 16), dtype=np.float32)
        return {
            "query": key[:, : 1 + n % 3],
            "key": key,
            "value": np.full_like(key, n - 250.0),
            "request_id": str(n),
        }

    unit = client.attend(model=model, **arguments(251)).output[0, 0]

    async def everyone():
        async with polyhead.AsyncClient(server.target, transport="stream") as connected:

            async def attend(n):
                call = connected.attend(model=model if n % 11 else "plane", **arguments(n))
                if n % 13 == 0:
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(call, 0)
                elif n % 11 == 0:
                    with pytest.raises(polyhead.ModelNotFoundError):
                        await call
                else:
                    result = await call
                    assert result.request_id == str(n)
                    expected = np.broadcast_to((n - 250) * unit, result.output.shape)
                    np.testing.assert_allclose(result.output, expected, rtol=0, atol=1e-3)

            await asyncio.gather(*(attend(n) for n in range(500)))

    asyncio.run(everyone())


@pytest.mark.parametrize("max_in_flight", [1, 64])
def test_many_requests_come_back_in_order(client, max_in_flight):
    given = queries(200)
    results = list(client.attend_many(given, model="plain", max_in_flight=max_in_flight))
    assert len(results) == len(given)
    for query, result in zip(given[::20], results[::20], strict=True):
        expected = client.attend(query, model="plain").output
        np.testing.assert_allclose(result.output, expected, rtol=0, atol=1e-6)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_replacing_the_server_loses_no_request(repository, monkeypatch):
    """It drains and another takes its place while requests keep coming."""
    # a busy machine needs longer to replace it than the two seconds that a client tries
    monkeypatch.setattr(pending_requests, "_MAX_ATTEMPTS", 10)
    port = free_port()
    given = queries(300)

    async def stream_of(replaced, half_done):
        for n, query in enumerate(given):
            if n == len(given) // 2:
                half_done.set()
                await replaced.wait()
            yield query

    async def run():
        replaced, half_done = asyncio.Event(), asyncio.Event()
        first = running_server(repository, port=port, threads=1)
        server = await asyncio.to_thread(first.__enter__)
        async with polyhead.AsyncClient(server.target) as connected:

            async def replace():
                await half_done.wait()
                await asyncio.to_thread(first.__exit__, None, None, None)
                second = running_server(repository, port=port, threads=1)
                await asyncio.to_thread(second.__enter__)
                replaced.set()
                return second

            replacing = asyncio.create_task(replace())
            source = stream_of(replaced, half_done)
            results = [r async for r in connected.attend_many(source, model="plain")]
            second = await replacing
        await asyncio.to_thread(second.__exit__, None, None, None)
        return results

    results = asyncio.run(run())
    assert [r.output.shape for r in results] == [query.shape for query in given]
