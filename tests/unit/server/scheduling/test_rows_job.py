"""Requests that are answered in blocks of rows: each block waits for its turn."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
from fake_requests import NO_DEADLINE, attend_job, rows_job
from gated_scheduler import PASSED, Gated, begun, numbers_of, settle

from polyhead_server.call import WeightsSelection
from polyhead_server.deadline import Deadline
from polyhead_server.errors import DeadlineError, InvalidRequestError, OverloadedError


def random_numbers(length, seed=0):
    return {"query": np.random.default_rng(seed).standard_normal((2, length, 8), np.float32)}


async def blocks_of(scheduler, job):
    """Yield a request's blocks as they are computed."""
    while job.has_more:
        yield await scheduler.run(job)


async def collect(blocks):
    async with aclosing(blocks):
        return [block async for block in blocks]


def stream(scheduler, model, number, deadline=NO_DEADLINE, length=4):
    """Ask for the rows of a numbered request, one in each block."""
    job = rows_job(model, numbers_of(number, length), 1, deadline)
    return asyncio.create_task(collect(blocks_of(scheduler, job)))


def attend(scheduler, model, number):
    return asyncio.create_task(scheduler.run(attend_job(model, numbers_of(number))))


@pytest.mark.parametrize("runs_inline", [False, True])
@pytest.mark.parametrize("rows_per_block", [1, 3, 7, 100])
@pytest.mark.parametrize("queries", [(), (6, 0, 3)])
def test_blocks_joined_are_the_whole_response(
    run_async, make_scheduler, models, runs_inline, rows_per_block, queries
):
    model, numbers = models["plain"], random_numbers(7)

    async def scenario():
        selection = WeightsSelection(queries=queries)
        job = rows_job(model, numbers, rows_per_block, weights=selection)
        job.runs_inline = runs_inline
        return await collect(blocks_of(make_scheduler(), job))

    blocks = run_async(scenario())
    wanted = list(queries or range(7))
    assert [first for first, _, _ in blocks] == [*range(0, len(wanted), rows_per_block)]
    ((whole, _),) = attend_job(model, numbers, weights=WeightsSelection()).make_batch(()).run()
    for axis, name in ((1, "output"), (2, "attn_weights")):
        joined = np.concatenate([getattr(outputs, name) for _, outputs, _ in blocks], axis)
        expected = np.take(getattr(whole, name), wanted, axis)
        np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-6)
    for _, _, timing in blocks:
        assert timing.queue_ms >= 0
        assert timing.compute_ms > 0


def test_a_stream_waits_for_its_turn_at_every_block(run_async, make_scheduler, gated):
    """Jobs that came while a block ran go before the next block."""

    async def scenario():
        scheduler = make_scheduler()
        streaming = stream(scheduler, gated, 1)
        await begun(gated)
        others = [attend(scheduler, gated, number) for number in (2, 3)]
        await settle()
        gated.gate.set()
        await asyncio.gather(streaming, *others)

    run_async(scenario())
    first_run = gated.begun.index(2)
    assert set(gated.begun[:first_run]) == {1}
    assert gated.begun[first_run : first_run + 2] == [2, 3]
    assert gated.begun[first_run + 2 :].count(1) >= 3


def test_a_stream_that_has_begun_is_not_refused_by_a_full_queue(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=1)
        streaming = stream(scheduler, gated, 1)
        await begun(gated)
        waiting = attend(scheduler, gated, 2)
        await settle()
        with pytest.raises(OverloadedError, match="--max-queue-size"):
            await stream(scheduler, gated, 3)
        gated.gate.set()
        await waiting
        assert len(await streaming) == 4

    run_async(scenario())
    assert 3 not in gated.begun


def test_no_block_is_computed_before_its_turn(run_async, make_scheduler, gated):
    gated.gate.set()

    async def scenario():
        scheduler = make_scheduler()
        job = rows_job(gated, numbers_of(1, 4), 1)
        rows = blocks_of(scheduler, job)
        async with aclosing(rows):
            assert not gated.begun
            assert not job.has_begun
            await anext(rows)
            assert job.has_begun
            at_first = len(gated.begun)
            await settle()
            assert len(gated.begun) == at_first
            await attend(scheduler, gated, 2)  # the slot is free meanwhile
        assert scheduler.num_running == 0

    run_async(scenario())


def test_cancelling_ends_the_run_of_a_block_and_frees_the_slot(run_async, make_scheduler, models):
    ended = []

    class Model(Gated):
        def run_graph(self, names, feeds, options):
            try:
                return super().run_graph(names, feeds, options)
            except Exception as error:
                ended.append(str(error))
                raise

    model = Model(models["plain"])

    async def scenario():
        scheduler = make_scheduler()
        streaming = stream(scheduler, model, 1)
        await begun(model)
        streaming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await streaming
        assert scheduler.num_running == 1  # the thread still runs it
        model.gate.set()
        await attend(scheduler, model, 2)
        assert scheduler.num_running == 0

    run_async(scenario())
    (text,) = ended
    assert "terminate" in text
    assert model.begun == [1, 2]


def test_a_cancelled_stream_of_rows_frees_its_place_in_the_queue(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=1)
        running = attend(scheduler, gated, 1)
        await begun(gated)
        leaving = stream(scheduler, gated, 2)
        await settle()
        leaving.cancel()
        await settle()
        staying = attend(scheduler, gated, 3)
        await settle()
        gated.gate.set()
        await asyncio.gather(running, staying)

    run_async(scenario())
    assert gated.begun == [1, 3]


def test_a_deadline_that_passes_between_blocks_ends_the_stream(run_async, make_scheduler, gated):
    gated.gate.set()
    now = 1000.0

    async def scenario():
        nonlocal now
        scheduler = make_scheduler(clock=lambda: now)
        rows = blocks_of(scheduler, rows_job(gated, numbers_of(1, 4), 1, Deadline(1001.0)))
        assert [(await anext(rows))[0] for _ in range(2)] == [0, 1]
        now = 1001.0
        with pytest.raises(DeadlineError):
            await anext(rows)
        assert scheduler.num_running == 0

    run_async(scenario())


def test_a_deadline_that_has_passed_runs_nothing(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        with pytest.raises(DeadlineError):
            await stream(scheduler, gated, 1, PASSED)
        assert scheduler.num_running == 0

    run_async(scenario())
    assert not gated.begun


def test_the_error_for_nan_names_the_field_in_the_request(run_async, make_scheduler, models):
    numbers = {"query": np.full((1, 2, 8), np.nan, np.float32)}

    async def scenario():
        with pytest.raises(InvalidRequestError) as caught:
            await make_scheduler().run(rows_job(models["plain"], numbers, 0))
        assert caught.value.field == "call.query.data"

    run_async(scenario())


def test_large_blocks_are_long_runs(models):
    model, numbers = models["plain"], random_numbers(8)
    most = model.batching.max_short_multiply_adds
    job = rows_job(model, numbers, 4)
    assert job.is_short
    block = job._plan.multiply_adds_of_block
    assert block == job._plan.call_plan.cost.multiply_adds // 2  # 4 of 8 rows
    model.batching = replace(model.batching, max_short_multiply_adds=block - 1)
    try:
        assert not rows_job(model, numbers, 4).is_short
    finally:
        model.batching = replace(model.batching, max_short_multiply_adds=most)
