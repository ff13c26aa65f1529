"""Refused requests of streams: one line of the log for a message, and a bounded share of time."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.limits import MAX_CANCELLED_IDS, MAX_STREAMED_REQUESTS
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.attention.refusals import RefusalPace
from polyhead_server.services.attention.stream_messages import read_stream_message


def test_the_refused_requests_of_a_message_are_one_line_of_the_log(streaming, caplog):
    caplog.set_level(logging.INFO, "polyhead.rpc")

    async def scenario(connection, serving, draining):
        empty = {number: pb.AttendRequest() for number in range(1, 20)}
        named = {number: pb.AttendRequest(model="x/y") for number in range(20, 30)}
        connection.send(empty | named)
        connection.send({1: pb.AttendRequest()})
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert sorted(reply.id for reply in connection.replies) == [1, *range(1, 30)]
    first, second = (line for line in caplog.records if line.message == "call")
    assert (first.requests, first.reasons) == (29, "REQUIRED 29")
    assert first.why.startswith("query: is required")
    assert second.reason == "REQUIRED"
    assert not hasattr(second, "requests")


def test_all_streams_of_a_peer_together_wait_for_their_refusals():
    async def scenario():
        pace = RefusalPace(seconds_each=0.0005)
        began = time.monotonic()
        await asyncio.gather(pace.pause(40, "10.0.0.1"), pace.pause(60, "10.0.0.1"))
        assert time.monotonic() - began >= 0.05

    asyncio.run(scenario())


def test_a_peer_does_not_wait_for_the_refusals_of_others():
    async def scenario():
        pace = RefusalPace(seconds_each=1)
        waiting = asyncio.create_task(pace.pause(1000, "10.0.0.1"))
        await asyncio.sleep(0)
        await asyncio.wait_for(pace.pause(0, "10.0.0.2"), 10)
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scenario())


def test_peers_that_need_not_wait_any_more_are_forgotten():
    async def scenario():
        pace = RefusalPace(seconds_each=1e-9)
        for number in range(3000):
            await pace.pause(1, str(number))
        assert len(pace._free_at) <= 1001

    asyncio.run(scenario())


REQUEST = pb.AttendStreamRequest(requests=[pb.StreamedRequest()]).SerializeToString()


def cancelled(count, *, packed):
    if packed:
        return pb.AttendStreamRequest(cancelled_ids=range(1, count + 1)).SerializeToString()
    return b"".join(b"\x10" + bytes([1 + n % 100]) for n in range(count))


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (REQUEST * (MAX_STREAMED_REQUESTS + 1), "requests"),
        (REQUEST * 65_000, "requests"),
        (cancelled(MAX_CANCELLED_IDS + 1, packed=True), "cancelled_ids"),
        (cancelled(MAX_CANCELLED_IDS + 1, packed=False), "cancelled_ids"),
        (cancelled(MAX_CANCELLED_IDS, packed=True) + cancelled(1, packed=True), "cancelled_ids"),
        (b"\x12\x80\x80\x40" + b"\x01" * (1 << 20), "cancelled_ids"),
        (b"\xf8\x3e\x01" * 2000, "request"),
    ],
    ids=["one more", "65,000", "ids", "ids one by one", "ids twice", "a megabyte", "unknown"],
)
def test_what_a_message_carries_is_counted_before_it_is_read(message, field):
    with pytest.raises(InvalidRequestError) as caught:
        read_stream_message(message)
    assert (caught.value.reason, caught.value.field) == ("TOO_MANY", field)


def test_a_message_may_carry_as_much_as_our_clients_send():
    message = REQUEST * MAX_STREAMED_REQUESTS + cancelled(MAX_CANCELLED_IDS, packed=True)
    read = read_stream_message(message)
    assert (len(read.frames), len(read.cancelled_ids)) == (MAX_STREAMED_REQUESTS, MAX_CANCELLED_IDS)
