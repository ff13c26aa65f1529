"""A supervisor asks its workers for their numbers, and no worker delays it for long."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager

from polyhead_server.process.metrics.worker import WorkerNumbers, answer_supervisor

PATIENCE_S = 10


@contextmanager
def pair():
    """What the supervisor has, and the worker's end, which the worker closes."""
    own, other = socket.socketpair()
    numbers = WorkerNumbers(own)
    try:
        yield numbers, other
    finally:
        numbers.close()


def test_each_question_is_answered_with_the_numbers_of_that_moment():
    async def scenario():
        with pair() as (numbers, end):
            counted = iter([["x" * 10**6], 2])
            answering = asyncio.create_task(answer_supervisor(end, lambda: next(counted)))
            assert await numbers.snapshot(PATIENCE_S) == ["x" * 10**6]
            assert await numbers.snapshot(PATIENCE_S) == 2
        await asyncio.wait_for(answering, PATIENCE_S)  # it ends with the supervisor

    asyncio.run(scenario())


def test_a_worker_that_hangs_has_no_numbers_until_it_goes_on():
    async def scenario():
        with pair() as (numbers, end):
            assert await numbers.snapshot(0.01) is None
            assert await numbers.snapshot(0.01) is None
            asked = []
            answering = asyncio.create_task(answer_supervisor(end, lambda: asked.append(1)))
            await numbers.snapshot(PATIENCE_S)
            assert asked == [1]  # it was asked once in all that time
        await asyncio.wait_for(answering, PATIENCE_S)

    asyncio.run(scenario())


def test_a_worker_that_ends_while_it_is_asked_has_no_numbers():
    async def scenario():
        with pair() as (numbers, end):
            asking = asyncio.create_task(numbers.snapshot(PATIENCE_S))
            await asyncio.sleep(0)
            end.close()
            assert await asyncio.wait_for(asking, PATIENCE_S) is None
        with pair() as (numbers, end), end:
            asking = asyncio.create_task(numbers.snapshot(PATIENCE_S))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            numbers.close()
            assert await asyncio.wait_for(asking, PATIENCE_S) is None

    asyncio.run(scenario())
