"""An AttendStream's writing, its capacity, and its end; the test holds the client's end of it."""

from __future__ import annotations

import asyncio
import sys

import pytest
from fake_connection import numbered_call, numbered_calls
from gated_scheduler import begun, settle

from polyhead.v1 import attention_pb2 as pb
from polyhead_server.errors import InvalidRequestError, OverloadedError

# ---------------------------------------------------------------- writing


def test_responses_that_are_ready_when_a_message_has_been_sent_share_the_next(streaming_inline):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(numbered_calls(1))
        await settle()
        for number in (2, 3, 4):
            connection.send(numbered_calls(number))
        await settle()
        assert connection.ids == [[1]]
        connection.can_write.set()
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert connection.ids == [[1], [2, 3, 4]]


@pytest.mark.parametrize(("max_bytes", "num_messages"), [(300, 4), (3000, 4), (1 << 20, 1)])
def test_messages_have_a_bounded_size(streaming_inline, max_bytes, num_messages):
    """A group is bounded by an estimate of its response, of which two fit into 3000 bytes."""

    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(*range(1, 8)))
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario, message_bytes=max_bytes)
    assert connection.answered == [1, 2, 3, 4, 5, 6, 7]
    assert all(len(sent) <= max_bytes for sent in connection.sent)
    assert len(connection.sent) <= num_messages


# ---------------------------------------------------------------- capacity


@pytest.mark.parametrize("limit", [{"max_requests": 3}, {"min_bytes": 0, "max_bytes": 500}])
def test_a_client_that_does_not_read_is_not_read(streaming_inline, limit):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        for number in range(1, 21):
            connection.send(numbered_calls(number))
        for _ in range(10):
            await settle()
        assert 2 <= connection.num_read <= 7
        connection.can_write.set()
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario, **limit)
    assert sorted(connection.answered) == [*range(1, 21)]


def test_a_malformed_message_is_not_kept_while_responses_are_not_read(streaming_inline):
    malformed = b"\x07" * 1000
    num_references = sys.getrefcount(malformed)

    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(numbered_calls(1))
        await connection.has_written.wait()
        connection.send_bytes(malformed)
        await settle()
        assert connection.num_read == 2
        assert sys.getrefcount(malformed) == num_references
        connection.can_write.set()
        with pytest.raises(InvalidRequestError):
            await serving

    streaming_inline(scenario)


@pytest.mark.parametrize("num_requests", [100, 1])
def test_a_long_message_that_waits_counts_as_held_memory(streaming_inline, num_requests):
    """It waits because responses are not read. More than there is memory for ends the stream."""
    refused = pb.StreamedRequest(call=pb.AttendRequest(model="no such model", request_id="x" * 300))
    message = pb.AttendStreamRequest(requests=[refused] * num_requests).SerializeToString()

    async def scenario(connection, serving, draining):
        reserved = connection.scheduler.reserve_bytes((1 << 20) - 1000)
        connection.can_write.clear()
        connection.send_bytes(message)
        await settle()
        connection.can_write.set()
        if num_requests == 1:
            connection.end()
            await serving
        else:
            with pytest.raises(OverloadedError):
                await serving
        reserved.release()
        assert connection.scheduler.load().held_bytes == 0

    streaming_inline(scenario, min_bytes=200, max_bytes=200)


def test_inline_requests_do_not_run_while_too_many_bytes_of_responses_wait(streaming_inline, gated):
    unsent = []

    async def scenario(connection, serving, draining):
        write = connection.write

        async def counting(data):
            unsent.append(len(gated.begun) - len(connection.sent))
            await write(data)

        connection.write = counting
        calls = {n: numbered_call(n, length=16) for n in range(1, 61)}
        for call in calls.values():
            call.attn_weights.SetInParent()  # all weights
        connection.send(calls)
        connection.end()
        await serving

    limits = {"batch_multiply_adds": 1, "message_bytes": 300, "min_bytes": 0, "max_bytes": 10_000}
    connection, _ = streaming_inline(scenario, **limits)
    assert connection.answered == [*range(1, 61)]
    assert max(unsent) <= 6  # a response takes 2.6 kB


def test_a_stream_waits_where_a_call_would_be_refused(streaming, gated):
    """It may use half of the queue, and reads nothing more while it does."""

    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(*range(1, 21)))
        await begun(gated)
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario, max_queue_size=4)
    assert sorted(connection.answered) == [*range(1, 21)]


def test_inline_requests_run_in_turns_between_which_others_run(streaming_inline, gated):
    turns = 0

    async def scenario(connection, serving, draining):
        nonlocal turns
        connection.send(numbered_calls(1, 2, 3, 4, 5))
        connection.end()
        while not serving.done():
            await asyncio.sleep(0)
            turns += 1

    connection, _ = streaming_inline(scenario, batch_multiply_adds=1)
    assert gated.batches == [[1], [2], [3], [4], [5]]
    assert turns >= 5
    assert connection.answered == [1, 2, 3, 4, 5]


def test_requests_that_differ_in_their_templates_leave_more_turns_to_others(streaming_inline):
    turns = []

    async def scenario(connection, serving, draining):
        for message in range(2):  # the second one's templates are known
            calls = {n: numbered_call(n, length=n) for n in range(1, 65)}
            connection.send(calls)
            num_turns = 0
            while len(connection.answered) < 64 * (message + 1):
                await asyncio.sleep(0)
                num_turns += 1
            turns.append(num_turns)
        connection.end()
        await serving

    streaming_inline(scenario)
    first, second = turns
    assert first >= 16 > second  # four in a turn, in place of 64


def test_a_waiting_request_does_not_keep_the_message_that_it_came_in(streaming, gated):
    """Only the request's own bytes count towards the limits."""
    unknown_field = b"\x7a" + b"\x80\x80\x80\x01" + bytes(1 << 21)  # field 15: 2 MiB

    async def scenario(connection, serving, draining):
        small = pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=1, call=numbered_call(1))])
        data = small.SerializeToString() + unknown_field
        before = sys.getrefcount(data)
        connection.send_bytes(data)
        await begun(gated)
        await settle()
        assert connection.num_read == 1
        assert sys.getrefcount(data) == before
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert connection.ids == [[1]]


# ---------------------------------------------------------------- ending


def test_a_server_that_drains_accepts_the_rest_of_a_message_that_it_has_read(streaming_inline):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(*range(500)))
        await connection.has_written.wait()  # some are answered, others not yet accepted
        draining.set()
        await serving

    connection, _ = streaming_inline(scenario)
    assert sorted(connection.answered) == [*range(500)]


def test_a_stream_ends_at_its_maximum_age(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(1))
        gated.gate.set()
        await serving

    connection, serving = streaming(scenario, max_age_s=0.05)
    assert serving.exception() is None
    assert connection.num_read == 1
    assert connection.answered == [1]


def test_a_malformed_message_ends_the_stream_once_the_others_are_answered(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(1))
        connection.send_bytes(b"\xff")
        await begun(gated)
        gated.gate.set()
        with pytest.raises(InvalidRequestError, match="AttendStreamRequest"):
            await serving

    connection, _ = streaming(scenario)
    assert connection.ids == [[1]]


@pytest.mark.parametrize("how", ["cancelled", "broken"])
def test_a_client_that_has_disconnected_leaves_nothing_behind(streaming, gated, how):
    """gRPC cancels the call, or a write fails first; asyncio has nothing to complain about."""

    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(1))
        await begun(gated)
        connection.send(numbered_calls(2, 3))
        connection.send_bytes(b"\xff")  # its error reaches no client
        await settle()
        if how == "broken":
            connection.send(numbered_calls(4))

            async def fail(_):
                raise asyncio.CancelledError

            connection.write = fail
            gated.gate.set()
        else:
            serving.cancel()
        await asyncio.wait((serving,))
        gated.gate.set()

    _, serving = streaming(scenario)
    assert serving.cancelled() or isinstance(serving.exception(), InvalidRequestError)
