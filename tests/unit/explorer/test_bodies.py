"""Bodies of the page's requests: bounded in size, in number and in time."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from polyhead_explorer.web.bodies import BodyReader
from polyhead_explorer.web.errors import BadRequestError, BusyError, describe_error

HEADERS = [(b"content-type", b"application/json")]


class Sender:
    """A request whose body arrives as the test sends it."""

    def __init__(self):
        self._parts = asyncio.Queue()
        self.request = Request({"type": "http", "headers": HEADERS}, self._parts.get)

    def send(self, body, *, more_body=True):
        self._parts.put_nowait({"type": "http.request", "body": body, "more_body": more_body})


async def read_by_half(reader):
    """Begin to read a request of which 60 bytes have arrived. Returns it and the reading."""
    sender = Sender()
    sender.send(b'{"text": "' + b"a" * 50)
    reading = asyncio.create_task(reader.read(sender.request))
    for _ in range(5):
        await asyncio.sleep(0)
    return sender, reading


def test_bodies_that_arrive_at_once_are_bounded_together():
    async def scenario():
        reader = BodyReader(max_bytes=100)
        first, reading = await read_by_half(reader)
        _, refused = await read_by_half(reader)
        with pytest.raises(BusyError) as caught:
            await refused
        status, body = describe_error(caught.value)
        assert (status, body["error"]["kind"]) == (503, "busy")
        first.send(b'"}', more_body=False)
        assert (await reading).text("text") == "a" * 50
        second, reading = await read_by_half(reader)  # the first one is not counted any more
        second.send(b'"}', more_body=False)
        await reading

    asyncio.run(scenario())


def test_a_body_that_does_not_arrive_is_given_up():
    async def scenario():
        reader = BodyReader(max_bytes=100, max_s=0.05)
        _, reading = await read_by_half(reader)
        with pytest.raises(BadRequestError, match=r"did not arrive within 0\.05 s"):
            await reading
        sender, reading = await read_by_half(reader)
        sender.send(b'"}', more_body=False)
        await reading

    asyncio.run(scenario())
