"""attend_rows of both clients: blocks in order, one at a time, and every way to leave early."""

from __future__ import annotations

import asyncio
import gc
from contextlib import closing

import numpy as np
import pytest
from fake_server import FakeServer, start

import polyhead

QUERY = np.arange(40, dtype=np.float32).reshape(2, 5, 4)


def test_blocks_come_in_order_and_cover_all_rows(connected):
    blocks = list(connected.attend_rows(QUERY, model="echo", request_id="a"))
    assert {rows.request_id for rows in blocks} == {"a"}
    assert [rows.first_row for rows in blocks] == [0, 2, 4]
    assert [rows.queries for rows in blocks] == [(0, 1), (2, 3), (4,)]
    together = np.concatenate([rows.output for rows in blocks], axis=1)
    np.testing.assert_array_equal(together, QUERY)
    assert blocks[0].attn_weights.shape == (2, 2, 2, 5)
    assert blocks[0].top_keys is None


def test_rows_can_be_chosen_and_blocks_sized(connected):
    wanted = polyhead.Weights(heads=1, queries=[4, 0, 3], top_k=2)
    blocks = list(connected.attend_rows(QUERY, model="echo", need_weights=wanted, rows_per_block=3))
    assert [rows.queries for rows in blocks] == [(4, 0, 3)]
    assert blocks[0].attn_weights.shape == blocks[0].top_keys.shape == (2, 1, 3, 2)
    np.testing.assert_array_equal(blocks[0].output, QUERY[:, [4, 0, 3]])


def test_blocks_fill_a_file_as_in_the_documentation(connected, tmp_path):
    path = tmp_path / "weights.npy"
    weights = np.lib.format.open_memmap(path, "w+", np.float16, (2, 2, 5, 5))
    with connected.attend_rows(
        QUERY, model="echo", need_weights=polyhead.Weights(dtype="float16"), need_output=False
    ) as blocks:
        for rows in blocks:
            assert rows.output is None
            weights[:, :, rows.queries] = rows.attn_weights
    del weights
    read = np.load(path)
    np.testing.assert_array_equal(read[:, 0], np.full((2, 5, 5), 0.2, np.float16))
    np.testing.assert_array_equal(read[:, 1, :, 0], np.ones((2, 5)))


def test_leaving_early_ends_the_call(fake, connected):
    with connected.attend_rows(QUERY, model="wait") as blocks:
        assert next(blocks).first_row == 0
    assert fake.cancelled.wait(30)
    assert list(blocks) == []  # there are no further blocks
    fake.release.set()


def test_closing_ends_the_call(fake, connected):
    with closing(connected.attend_rows(QUERY, model="wait")) as blocks:
        next(blocks)
    assert fake.cancelled.wait(30)


def test_dropping_the_iterator_ends_the_call(fake, connected):
    for _ in connected.attend_rows(QUERY, model="wait"):
        break
    gc.collect()
    assert fake.cancelled.wait(30)


def test_a_failure_between_blocks_raises_a_documented_error(connected):
    blocks = connected.attend_rows(QUERY, model="fails")
    next(blocks)
    with pytest.raises(polyhead.ServerError, match="internal error"):
        next(blocks)


def test_a_block_without_an_array_ends_the_call(fake, connected):
    blocks = connected.attend_rows(QUERY, model="no-array")
    with pytest.raises(polyhead.ServerError, match="holds no array"):
        next(blocks)
    assert list(blocks) == []
    assert fake.cancelled.wait(30)


class IncompleteServer(FakeServer):
    """A service that sends only some of the blocks: as many as the model's name says."""

    def AttendRows(self, request, context):
        blocks = list(super().AttendRows(request, context))
        yield from blocks[:1] if request.call.model == "ends-early" else blocks[::2]


@pytest.mark.parametrize(
    ("model", "message"),
    [("ends-early", "ended the call after 2 of 5 rows"), ("leaves-out", "begins with row 2")],
)
def test_missing_rows_are_a_server_error(model, message):
    fake = IncompleteServer()
    server = start(fake)
    with polyhead.Client(fake.target, timeout=30) as client:
        blocks = client.attend_rows(QUERY, model=model)
        assert next(blocks).first_row == 0
        with pytest.raises(polyhead.ServerError, match=message):
            next(blocks)
        assert list(blocks) == []

    async def body(client):
        with pytest.raises(polyhead.ServerError, match=message):
            async for _ in client.attend_rows(QUERY, model=model):
                pass

    use(fake, body)
    server.stop(None).wait()


def test_an_async_call_outside_of_a_loop_is_explained(fake):
    client = polyhead.AsyncClient(fake.target)
    with pytest.raises(polyhead.ClientClosedError, match="outside of an event loop"):
        client.attend_rows(QUERY, model="echo")


def test_the_deadline_covers_all_blocks_together(connected):
    blocks = connected.attend_rows(QUERY, model="wait", timeout=1)
    with pytest.raises(polyhead.DeadlineExceededError, match="within 1 s"):
        list(blocks)


def test_closing_the_client_ends_the_call(fake):
    client = polyhead.Client(fake.target)
    blocks = client.attend_rows(QUERY, model="wait")
    next(blocks)
    client.close()
    with pytest.raises(polyhead.RequestCancelledError):
        next(blocks)
    with pytest.raises(polyhead.ClientClosedError):
        client.attend_rows(QUERY, model="wait")


def test_bad_arguments_are_not_sent(fake, connected):
    with pytest.raises(polyhead.InvalidArgumentError, match="rows_per_block"):
        connected.attend_rows(QUERY, model="echo", rows_per_block=0)
    with pytest.raises(polyhead.InvalidArgumentError, match=r"query\[None\]"):
        connected.attend_rows(QUERY[0], model="echo")
    assert fake.calls == 0


def use(fake, body):
    """Run ``body(client)`` in an event loop of its own."""

    async def run():
        async with polyhead.AsyncClient(fake.target, timeout=30) as client:
            return await body(client)

    return asyncio.run(run())


def test_async_blocks_come_in_order(fake):
    async def body(client):
        async with client.attend_rows(QUERY, model="echo") as blocks:
            return [rows async for rows in blocks]

    blocks = use(fake, body)
    assert [rows.queries for rows in blocks] == [(0, 1), (2, 3), (4,)]
    together = np.concatenate([rows.output for rows in blocks], axis=1)
    np.testing.assert_array_equal(together, QUERY)


def test_async_leaving_early_ends_the_call(fake):
    async def body(client):
        async with client.attend_rows(QUERY, model="wait") as blocks:
            assert (await anext(blocks)).first_row == 0
        assert await asyncio.to_thread(fake.cancelled.wait, 30)
        assert [rows async for rows in blocks] == []

    use(fake, body)


def test_async_cancelling_the_task_ends_the_call(fake):
    async def body(client):
        async def read():
            return [rows async for rows in client.attend_rows(QUERY, model="wait")]

        task = asyncio.create_task(read())
        await asyncio.to_thread(fake.entered.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.cancelled.wait, 30)

    use(fake, body)


def test_async_closing_the_client_ends_the_call(fake):
    async def body(client):
        blocks = client.attend_rows(QUERY, model="wait")
        await anext(blocks)
        await client.close()
        with pytest.raises(polyhead.RequestCancelledError):
            await anext(blocks)
        with pytest.raises(polyhead.ClientClosedError):
            client.attend_rows(QUERY, model="wait")

    use(fake, body)


@pytest.mark.parametrize(("model", "message"), [("fails", "internal"), ("no-array", "no array")])
def test_async_failures_between_blocks_raise_documented_errors(fake, model, message):
    async def body(client):
        with pytest.raises(polyhead.ServerError, match=message):
            async for _ in client.attend_rows(QUERY, model=model):
                pass

    use(fake, body)


def test_async_deadlines_cover_all_blocks_together(fake):
    async def body(client):
        with pytest.raises(polyhead.DeadlineExceededError, match="within 1 s"):
            async for _ in client.attend_rows(QUERY, model="wait", timeout=1):
                pass

    use(fake, body)
