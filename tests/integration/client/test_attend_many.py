"""attend_many of both clients: order, limits, and every way to leave early."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from contextlib import aclosing, closing
from itertools import count

import numpy as np
import pytest

import polyhead
from polyhead._stream.attend_many import SharedArguments


def number(value):
    return np.full((1, 2, 3), value, np.float32)


def numbers(results):
    return [None if isinstance(r, Exception) else r.output[0, 0, 0] for r in results]


async def collected(client, items, **arguments):
    return [result async for result in client.attend_many(items, **arguments)]


def use(fake, body, **options):
    """Run ``body(client)`` with an AsyncClient in an event loop of its own."""

    async def run():
        async with polyhead.AsyncClient(fake.target, timeout=30, **options) as client:
            return await body(client)

    return asyncio.run(run())


async def made_async(items):
    for item in items:
        yield item


@pytest.fixture(params=["sync", "async", "async input"])
def attend_many(request, fake):
    """Return all results of attend_many, from either client."""

    def call(items, **arguments):
        if request.param == "sync":
            with polyhead.Client(fake.target, timeout=30) as client:
                return list(client.attend_many(items, **arguments))
        given = items if request.param == "async" else made_async(items)
        return use(fake, lambda client: collected(client, given, **arguments))

    return call


@pytest.mark.parametrize("max_in_flight", [1, 2, 64, 1000])
def test_results_come_in_order(fake, attend_many, max_in_flight):
    items = (number(n) for n in range(100))
    results = attend_many(items, model="echo", max_in_flight=max_in_flight)
    assert numbers(results) == list(range(100))
    assert fake.streams == 1
    assert sum(fake.messages) == 100
    assert max(fake.messages) <= max_in_flight  # so no more were under way


def test_requests_may_have_their_own_arguments(attend_many):
    items = [
        number(1),
        {"query": number(2), "need_weights": True, "request_id": "second"},
        {"query": number(3), "key": np.ones((1, 5, 3), np.float32), "model": "other"},
    ]
    one, two, three = attend_many(items, model="echo", request_id="shared")
    assert numbers([one, two, three]) == [1, 2, 3]
    assert [r.request_id for r in (one, two, three)] == ["shared", "second", "shared"]
    assert one.attn_weights is None
    assert two.attn_weights.shape == (1, 2, 2, 2)
    assert three.kv_seq_len == 5


def test_an_empty_input_yields_nothing(fake, attend_many):
    assert attend_many([], model="echo") == []
    assert fake.streams == 0


def test_an_error_is_raised_in_its_place(attend_many):
    items = [number(0), number(1), {"query": number(2), "model": "fails"}, number(3)]
    with pytest.raises(polyhead.InvalidArgumentError, match="got another"):
        attend_many(items, model="echo")


def test_errors_may_be_yielded_in_their_places(attend_many):
    items = [
        number(0),
        {"query": number(1), "model": "fails"},
        {"query": number(2), "timeout": 0},
        number(3)[0],
        {"query": number(4), "model": None},
        number(5),
    ]
    results = attend_many(items, model="echo", return_exceptions=True)
    assert numbers(results) == [0, None, None, None, None, 5]
    assert [str(error)[:11] for error in results[1:5]] == [
        "query.shape", "timeout: ex", "query: expe", "model: expe",
    ]  # fmt: skip


def test_an_error_of_the_input_is_raised_after_the_results_of_earlier_items(fake):
    class InputError(Exception):
        pass

    def items():
        yield number(0)
        yield number(1)
        raise InputError

    with polyhead.Client(fake.target) as client:
        results = client.attend_many(items(), model="echo", return_exceptions=True)
        assert [next(results).output[0, 0, 0], next(results).output[0, 0, 0]] == [0, 1]
        with pytest.raises(InputError):
            next(results)

    async def body(client):
        results = client.attend_many(items(), model="echo", return_exceptions=True)
        assert [(await anext(results)).output[0, 0, 0] for _ in range(2)] == [0, 1]
        with pytest.raises(InputError):
            await anext(results)

    use(fake, body)


def test_an_invalid_dict_does_not_affect_other_requests(attend_many):
    items = [{"query": number(0), "need_weight": True}, {"request_id": "a"}, {3: 4}, number(1)]
    *errors, result = attend_many(items, model="echo", return_exceptions=True)
    assert all(isinstance(error, polyhead.InvalidArgumentError) for error in errors)
    assert str(errors[0]).startswith(
        "need_weight: is not an argument: expected query, model, version"
    )
    assert [str(error)[:8] for error in errors[1:]] == ["query: e", "3: is no"]
    assert numbers([result]) == [1]


def test_an_input_that_never_waits_lets_other_tasks_run(fake):
    """Even if max_in_flight allows to submit all of it at once."""

    async def body(client):
        read = []

        def items():
            for n in range(1000):
                read.append(n)
                yield number(n)

        async def look():
            await asyncio.sleep(0)  # lets the input's task, made after this one, run
            return len(read)

        looking = asyncio.create_task(look())
        results = await collected(client, items(), model="echo", max_in_flight=1000)
        assert numbers(results) == list(range(1000))
        assert 0 < await looking < 200

    use(fake, body)


def test_a_loop_that_ends_first_logs_no_unretrieved_errors(fake):
    """asyncio reports errors of futures that were never retrieved to the loop."""
    complaints = []

    def complain(_, what):
        # gRPC's own callback may come after the loop has closed
        if "PollerCompletionQueue" not in what["message"]:
            complaints.append(what)

    client = polyhead.AsyncClient(fake.target)
    items = [number(0), *({"query": number(n), "model": "silent"} for n in range(1, 9))]

    async def run():
        asyncio.get_running_loop().set_exception_handler(complain)
        results = client.attend_many(items, model="echo")
        await anext(results)
        await asyncio.to_thread(wait_until, lambda: fake.calls == len(items))

    asyncio.run(run())
    gc.collect()
    assert complaints == []


def test_a_result_waits_for_the_next_item_of_a_blocking_input(fake, connected):
    """Client.attend_many documents this; with max_in_flight=1 it does not wait."""
    for max_in_flight, expected in ((2, [0, 1]), (1, [0])):
        read = []
        items = (read.append(n) or number(n) for n in range(3))
        results = connected.attend_many(items, model="echo", max_in_flight=max_in_flight)
        assert next(results).output[0, 0, 0] == 0
        assert read == expected
        results.close()


def test_input_is_read_only_up_to_max_in_flight(fake):
    read = []

    def items():
        for n in count():
            read.append(n)
            yield number(n)

    with (
        polyhead.Client(fake.target) as client,
        closing(client.attend_many(items(), model="echo", max_in_flight=5)) as results,
    ):
        assert read == []  # lazily
        for n, result in enumerate(results):
            assert result.output[0, 0, 0] == n
            assert len(read) <= n + 5
            if n == 20:
                break

    async def body(client):
        read.clear()
        async with aclosing(client.attend_many(items(), model="echo", max_in_flight=5)) as results:
            async for result in results:
                n = int(result.output[0, 0, 0])
                assert len(read) <= n + 6
                if n == 20:
                    break

    use(fake, body)


def test_an_array_may_be_reused_for_each_request(attend_many):
    def items():
        query = number(0)
        for n in range(50):
            query[:] = n
            yield query

    assert numbers(attend_many(items(), model="echo")) == list(range(50))


def wait_until(condition):
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about within 30 s")


def test_leaving_early_cancels_requests_under_way(fake):
    items = [number(0), *({"query": number(n), "model": "silent"} for n in range(1, 9))]
    with (
        polyhead.Client(fake.target) as client,
        closing(client.attend_many(items, model="echo", max_in_flight=4)) as results,
    ):
        next(results)
        wait_until(lambda: fake.calls >= 4)
        results.close()
        wait_until(lambda: sorted(fake.cancelled_ids) == [2, 3, 4])

    fake.calls, fake.cancelled_ids = 0, []

    async def body(client):
        async with aclosing(client.attend_many(items, model="echo", max_in_flight=4)) as results:
            await anext(results)
            await asyncio.to_thread(wait_until, lambda: fake.calls == 5)
        await asyncio.to_thread(wait_until, lambda: sorted(fake.cancelled_ids) == [2, 3, 4, 5])

    use(fake, body)


def test_a_slow_input_does_not_delay_results(fake):
    async def body(client):
        go_on = asyncio.Event()

        async def items():
            yield number(0)
            await go_on.wait()
            yield number(1)

        results = client.attend_many(items(), model="echo")
        assert (await anext(results)).output[0, 0, 0] == 0  # before the second item
        go_on.set()
        assert [r.output[0, 0, 0] async for r in results] == [1]

    use(fake, body)


def test_cancelling_the_task_cancels_requests_under_way(fake):
    async def body(client):
        items = [{"query": number(n), "model": "silent"} for n in range(3)]
        task = asyncio.create_task(collected(client, items))
        await asyncio.to_thread(wait_until, lambda: fake.calls == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: sorted(fake.cancelled_ids) == [1, 2, 3])

    use(fake, body)


def test_each_request_has_its_own_deadline(attend_many):
    items = [number(0), {"query": number(1), "model": "silent", "timeout": 0.2}, number(2)]
    results = attend_many(items, model="echo", return_exceptions=True)
    assert numbers(results) == [0, None, 2]
    assert isinstance(results[1], polyhead.DeadlineExceededError)


def test_all_connections_are_used(fake):
    with polyhead.Client(fake.target, connections=3) as client:
        items = [number(n) for n in range(30)]
        assert numbers(client.attend_many(items, model="echo")) == list(range(30))
    assert len(fake.peers) == fake.streams == 3


@pytest.mark.parametrize("arguments", [
    {"max_in_flight": 0}, {"max_in_flight": None}, {"max_in_flight": True},
    {"return_exceptions": 1}, {"modle": "echo"}, {"query": number(0)},
])  # fmt: skip
def test_bad_arguments_are_refused_at_once(fake, arguments):
    with polyhead.Client(fake.target) as client, pytest.raises(polyhead.InvalidArgumentError):
        client.attend_many([], model="echo", **arguments)


def test_max_in_flight_may_be_a_numpy_integer(connected):
    results = connected.attend_many([number(0)], model="echo", max_in_flight=np.int64(4))
    assert numbers(results) == [0]


def test_all_arguments_of_attend_can_be_shared():
    arguments = inspect.signature(polyhead.Client.attend).parameters.keys()
    assert SharedArguments.__annotations__.keys() == arguments - {"self", "query"}
    sync, twin = (
        inspect.signature(client.attend_many).parameters.keys()
        for client in (polyhead.Client, polyhead.AsyncClient)
    )
    assert sync == twin
