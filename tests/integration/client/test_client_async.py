"""AsyncClient: the failures of Client, event loops and cancellation."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import polyhead

QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def use(fake, body, **options):
    """Run ``body(client)`` in an event loop of its own."""

    async def run():
        async with polyhead.AsyncClient(fake.target, timeout=30, **options) as client:
            return await body(client)

    return asyncio.run(run())


def test_calls_reach_their_methods(fake):
    async def body(client):
        assert [model.name for model in await client.models()] == ["a", "b"]
        assert (await client.model("c", 4)).version == 4
        assert (await client.server_info()).version == "9"
        assert await client.is_ready()
        await client.wait_until_ready()
        return await client.attend(QUERY, model="echo", request_id="me")

    result = use(fake, body, metadata={"x-tenant": "t"})
    np.testing.assert_array_equal(result.output, QUERY)
    assert result.request_id == "me"
    assert fake.metadata["x-tenant"] == "t"


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("fails", polyhead.ServerError, "internal error"),
        ("no-array", polyhead.ServerError, "holds no array"),
        ("large", polyhead.ResourceExhaustedError, "--max-response-bytes"),
    ],
)
def test_failures_raise_the_documented_errors(fake, model, error, message):
    with pytest.raises(error, match=message):
        use(fake, lambda client: client.attend(QUERY, model=model))


def test_a_deadline_passes(fake):
    with pytest.raises(polyhead.DeadlineExceededError, match=r"within 0\.2 s"):
        use(fake, lambda client: client.attend(QUERY, model="wait", timeout=0.2))


def test_a_request_larger_than_the_default_retry_buffer_is_retried(fake):
    query = np.ones((1, 1000, 400), np.float32)
    use(fake, lambda client: client.attend(query, model="twice-unavailable"))
    assert fake.calls == 3


def test_many_tasks_share_one_client(fake):
    async def body(client):
        queries = [np.full((1, 2, 3), number, np.float32) for number in range(32)]
        return await asyncio.gather(*(client.attend(q, model="echo") for q in queries))

    for number, result in enumerate(use(fake, body)):
        assert (result.output == number).all()


async def entered(fake):
    await asyncio.to_thread(fake.entered.wait, 30)


def test_cancelling_the_task_cancels_the_call(fake):
    async def body(client):
        task = asyncio.create_task(client.attend(QUERY, model="wait"))
        await entered(fake)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.cancelled.wait, 30)

    use(fake, body)


def test_closing_cancels_calls_under_way(fake):
    async def body(client):
        task = asyncio.create_task(client.attend(QUERY, model="wait"))
        await entered(fake)
        await client.close()
        with pytest.raises(polyhead.RequestCancelledError):
            await task
        with pytest.raises(polyhead.ClientClosedError, match="closed"):
            await client.models()

    use(fake, body)


def test_a_client_may_be_made_outside_of_a_loop(fake):
    client = polyhead.AsyncClient(fake.target)

    async def run():
        async with client:
            return await client.models()

    assert len(asyncio.run(run())) == 2


def test_a_client_that_was_never_used_can_be_closed():
    asyncio.run(polyhead.AsyncClient("127.0.0.1:1").close())


def test_a_client_belongs_to_one_loop(fake):
    client = polyhead.AsyncClient(fake.target)

    async def call():
        return await client.models()

    async def close_where_it_was_made():
        await call()
        with pytest.raises(polyhead.ClientClosedError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, call())
        await client.close()

    asyncio.run(close_where_it_was_made())


def test_bad_arguments_are_not_sent(fake):
    with pytest.raises(polyhead.InvalidArgumentError, match=r"query\[None\]"):
        use(fake, lambda client: client.attend(QUERY[0], model="echo"))
    assert fake.calls == 0


def test_both_clients_have_the_same_methods_and_arguments():
    import inspect

    for name in ("attend", "models", "model", "server_info", "is_ready", "wait_until_ready"):
        sync, twin = getattr(polyhead.Client, name), getattr(polyhead.AsyncClient, name)
        assert inspect.signature(sync) == inspect.signature(twin)
        assert inspect.iscoroutinefunction(twin)
    sync, twin = (
        inspect.signature(client.attend_rows).replace(return_annotation=None)
        for client in (polyhead.Client, polyhead.AsyncClient)
    )
    assert sync == twin
    names = inspect.signature(polyhead.Client.attend).parameters
    # blocks of rows have no vectors of heads
    assert set(sync.parameters) == {*names, "rows_per_block"} - {"head_vectors"}
