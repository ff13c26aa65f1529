"""How many turns of the event loop a stream waits for further messages; with a fake counter."""

from __future__ import annotations

import asyncio

import pytest

from polyhead_server.services.attention.coalescer import Coalescer

FEW, MANY = Coalescer.few_turns, Coalescer.many_turns


class Stream:
    """Counts a stream's messages; some come while the coalescer waits."""

    def __init__(self):
        self.num_messages = 0
        self._coalescer = Coalescer()

    async def turns_waited(self, num_inline, *, new=1, later=(), is_enough=lambda: False):
        """Let the coalescer wait, and return the turns of the event loop that it took.

        ``new``: messages that have been read before. ``later``: in which turns another is read.
        """
        self.num_messages += new
        waiting = asyncio.create_task(
            self._coalescer.wait(lambda: self.num_messages, num_inline, is_enough)
        )
        turns = 0
        while True:
            await asyncio.sleep(0)
            if waiting.done():
                return turns
            turns += 1
            self.num_messages += turns in later


@pytest.fixture
def stream():
    return Stream()


def test_a_message_of_one_request_waits_a_few_turns(stream):
    assert asyncio.run(stream.turns_waited(1)) == FEW


def test_a_message_of_several_requests_does_not_wait(stream):
    """Its caller has gathered them already."""
    assert asyncio.run(stream.turns_waited(2)) == 0


def test_several_messages_of_one_request_each_wait_a_few_turns(stream):
    assert asyncio.run(stream.turns_waited(3, new=3)) == FEW


def test_each_further_message_renews_the_wait(stream):
    assert asyncio.run(stream.turns_waited(1, later={1})) == 1 + FEW
    assert stream.num_messages == 2


def test_after_an_answer_to_several_messages_it_waits_many_turns(stream):
    async def scenario():
        await stream.turns_waited(2, new=2)
        assert await stream.turns_waited(1) == MANY
        # the last answer was to one message, so few come at once
        assert await stream.turns_waited(1) == FEW

    asyncio.run(scenario())


def test_messages_that_come_while_it_waits_count_as_answered_together(stream):
    async def scenario():
        await stream.turns_waited(1, later={1})
        assert await stream.turns_waited(5) == MANY

    asyncio.run(scenario())


def test_an_answer_to_several_requests_of_one_message_is_not_one_to_several_messages(stream):
    async def scenario():
        await stream.turns_waited(5)
        assert await stream.turns_waited(1) == FEW

    asyncio.run(scenario())


def test_it_waits_no_longer_once_there_is_enough(stream):
    async def scenario():
        assert await stream.turns_waited(1, is_enough=lambda: True) == 0
        await stream.turns_waited(2, new=2)

        def is_enough():
            return stream.num_messages >= 7

        assert await stream.turns_waited(1, later={1, 2, 3}, is_enough=is_enough) == 3

    asyncio.run(scenario())
