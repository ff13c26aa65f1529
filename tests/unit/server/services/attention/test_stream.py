"""An AttendStream's reading, running and writing; the test holds the client's end of it."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest
from fake_connection import FakeConnection
from fake_requests import NEVER_INLINE, NO_DEADLINE, attend_job, stream_plans
from gated_scheduler import begun, numbers_of, settle

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.engine.cost import Batching
from polyhead_server.errors import InvalidRequestError, StalledError
from polyhead_server.limits import InlineLimits, StreamLimits
from polyhead_server.rpc.handlers import CallContext
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.settings import ServerSettings


class Connection(FakeConnection):
    """A connection whose messages are those of an AttendStream."""

    def send(self, requests=(), cancelled=()):
        """Send one message. ``requests`` are given by their ids."""
        streamed = [pb.StreamedRequest(id=n, call=call) for n, call in dict(requests).items()]
        message = pb.AttendStreamRequest(requests=streamed, cancelled_ids=cancelled)
        self.send_bytes(message.SerializeToString())

    @property
    def written(self):
        """The messages that the server has written."""
        return [pb.AttendStreamResponse.FromString(message) for message in self.sent]

    @property
    def replies(self):
        """The replies of all messages, in order."""
        return [reply for message in self.written for reply in message.replies]

    @property
    def ids(self):
        """The ids of the replies, message by message. No reply is an error."""
        assert all(reply.HasField("response") for reply in self.replies)
        return [[reply.id for reply in message.replies] for message in self.written]

    @property
    def answered(self):
        """The ids of the replies, in order."""
        return [number for ids in self.ids for number in ids]


@pytest.fixture
def streaming(run_async, make_scheduler, gated):
    """Run a scenario beside a stream, which has ended when the scenario has.

    Requests run in worker threads; ``stream_limits`` are fields of StreamLimits.
    """

    def streaming(
        scenario,
        *,
        share_bytes=1 << 30,
        max_queue_size=2000,
        inline_limits=NEVER_INLINE,
        **stream_limits,
    ):
        settings = ServerSettings(
            max_queue_size=max_queue_size,
            inline_limits=inline_limits,
            stream_limits=StreamLimits(**stream_limits),
        )

        async def both():
            connection, draining = Connection(), asyncio.Event()
            stream = RequestStream(
                connection,
                CallContext("a.Service/Stream", NO_DEADLINE),
                stream_plans(gated, settings),
                make_scheduler(max_queue_size=max_queue_size),
                settings,
                share_bytes=lambda: share_bytes,
            )
            serving = asyncio.create_task(stream.serve(draining))
            await scenario(connection, serving, draining)
            await asyncio.wait((serving,))
            for _ in range(3):
                await asyncio.sleep(0)  # what was cancelled has ended
            assert not stream._running
            assert not stream._inline
            return connection, serving

        return run_async(both())

    return streaming


@pytest.fixture
def streaming_inline(streaming):
    """Run a scenario as `streaming` does, but run requests on the event loop.

    ``limits`` are fields of InlineLimits or of StreamLimits.
    """

    def streaming_inline(scenario, **limits):
        names = limits.keys() & set(InlineLimits.__slots__)
        inline_limits = InlineLimits(**{name: limits.pop(name) for name in names})
        return streaming(scenario, inline_limits=inline_limits, **limits)

    return streaming_inline


def message(number, length=2):
    query = np.full((1, length, 8), number, np.float32)
    return pb.AttendRequest(model="plain", query=to_tensor(query))


def requests(*numbers):
    return {number: message(number) for number in numbers}


# ---------------------------------------------------------------- writing


def test_responses_that_are_ready_when_a_message_has_been_sent_share_the_next(streaming_inline):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(requests(1))
        await settle()
        for number in (2, 3, 4):
            connection.send(requests(number))
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
        connection.send(requests(*range(1, 8)))
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario, message_bytes=max_bytes)
    assert connection.answered == [1, 2, 3, 4, 5, 6, 7]
    assert all(len(sent) <= max_bytes for sent in connection.sent)
    assert len(connection.sent) <= num_messages


def test_a_client_that_takes_no_response_is_disconnected(streaming_inline):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(requests(1))
        with pytest.raises(StalledError, match="read replies as they come"):
            await serving

    streaming_inline(scenario, max_write_s=0.01)


# ---------------------------------------------------------------- capacity


@pytest.mark.parametrize("limit", [{"max_requests": 3}, {"min_bytes": 0, "max_bytes": 500}])
def test_a_client_that_does_not_read_is_not_read(streaming_inline, limit):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        for number in range(1, 21):
            connection.send(requests(number))
        for _ in range(10):
            await settle()
        assert 2 <= connection.num_read <= 7
        connection.can_write.set()
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario, **limit)
    assert sorted(connection.answered) == [*range(1, 21)]


def test_inline_requests_do_not_run_while_too_many_bytes_of_responses_wait(streaming_inline, gated):
    unsent = []

    async def scenario(connection, serving, draining):
        write = connection.write

        async def counting(data):
            unsent.append(len(gated.begun) - len(connection.sent))
            await write(data)

        connection.write = counting
        calls = {n: message(n, length=16) for n in range(1, 61)}
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
        connection.send(requests(*range(1, 21)))
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
        connection.send(requests(1, 2, 3, 4, 5))
        connection.end()
        while not serving.done():
            await asyncio.sleep(0)
            turns += 1

    connection, _ = streaming_inline(scenario, batch_multiply_adds=1)
    assert gated.batches == [[1], [2], [3], [4], [5]]
    assert turns >= 5
    assert connection.answered == [1, 2, 3, 4, 5]


def test_a_waiting_request_does_not_keep_the_message_that_it_came_in(streaming, gated):
    """Only the request's own bytes count towards the limits."""
    unknown_field = b"\x7a" + b"\x80\x80\x80\x01" + bytes(1 << 21)  # field 15: 2 MiB

    async def scenario(connection, serving, draining):
        small = pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=1, call=message(1))])
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


# ---------------------------------------------------------------- cancellation


def test_the_id_of_a_cancelled_request_is_free_at_once(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(requests(1))
        await begun(gated)
        connection.send({1: message(2)}, cancelled=[1])
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert connection.ids == [[1]]
    assert gated.begun == [1, 2]


def test_a_cancelled_request_leaves_the_queue_and_the_stream(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(requests(1))
        await begun(gated)
        connection.send(requests(2, 3))
        await settle()
        connection.send(cancelled=[2, 77])
        await settle()
        connection.send({2: message(4)})  # the id is free again
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert sorted(connection.answered) == [1, 2, 3]
    assert sorted(gated.begun) == [1, 3, 4]


def test_a_cancelled_member_of_a_group_leaves_the_others(streaming_inline, gated):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(requests(1, 2))
        await settle()
        # these wait until the client takes the response
        connection.send(requests(*range(3, 9)))
        await settle()
        connection.send(requests(20), cancelled=[4, 8])
        connection.send({4: message(24)})  # the id is free again
        await settle()
        assert gated.begun == [1, 2]
        connection.can_write.set()
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert sorted(connection.answered) == [1, 2, 3, 4, 5, 6, 7, 20]
    assert sorted(gated.begun) == [1, 2, 3, 5, 6, 7, 20, 24]


# ---------------------------------------------------------------- ending


def test_a_server_that_drains_answers_what_it_has_read(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1), 2: message(2, length=3)})
        await begun(gated)
        draining.set()
        await settle()
        connection.send(requests(3))  # too late
        assert not serving.done()
        gated.gate.set()
        await serving

    connection, _ = streaming(scenario)
    assert connection.answered == [1, 2]
    assert gated.begun == [1, 2]


def test_a_server_that_drains_accepts_the_rest_of_a_message_that_it_has_read(streaming_inline):
    async def scenario(connection, serving, draining):
        connection.send(requests(*range(500)))
        await connection.has_written.wait()  # some are answered, others not yet accepted
        draining.set()
        await serving

    connection, _ = streaming_inline(scenario)
    assert sorted(connection.answered) == [*range(500)]


def test_a_stream_ends_at_its_maximum_age(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(requests(1))
        gated.gate.set()
        await serving

    connection, serving = streaming(scenario, max_age_s=0.05)
    assert serving.exception() is None
    assert connection.num_read == 1
    assert connection.answered == [1]


def test_a_malformed_message_ends_the_stream_once_the_others_are_answered(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(requests(1))
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
        connection.send(requests(1))
        await begun(gated)
        connection.send(requests(2, 3))
        connection.send_bytes(b"\xff")  # its error reaches no client
        await settle()
        if how == "broken":
            connection.send(requests(4))

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


# ---------------------------------------------------------------- groups


def test_requests_of_one_template_run_as_one_batch_and_each_gets_its_own_response(
    streaming_inline, gated
):
    async def scenario(connection, serving, draining):
        connection.send(requests(*range(1, 8)))
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert gated.batches == [[1, 2, 3, 4, 5, 6, 7]]
    assert connection.ids == [[1, 2, 3, 4, 5, 6, 7]]
    gated.gate.set()
    for reply in connection.replies:
        assert reply.response.execution.batch_size == 7
        ((expected, _),) = attend_job(gated, numbers_of(reply.id)).make_batch(()).run()
        np.testing.assert_allclose(
            to_array(reply.response.output), expected.output, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("invalid", [1, 3, 7])
def test_an_invalid_request_of_a_group_fails_alone(streaming_inline, invalid):
    async def scenario(connection, serving, draining):
        connection.send({n: message(np.nan if n == invalid else n) for n in range(1, 8)})
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert [reply.id for reply in connection.replies] == [1, 2, 3, 4, 5, 6, 7]
    for reply in connection.replies:
        assert reply.HasField("error") == (reply.id == invalid)
    assert "NaN" in connection.replies[invalid - 1].error.message


@pytest.mark.parametrize("is_inline", [False, True])
def test_an_id_that_is_used_twice_in_one_message_is_refused(streaming, gated, is_inline):
    async def scenario(connection, serving, draining):
        twice = [pb.StreamedRequest(id=n, call=message(n)) for n in (1, 2, 3, 2, 4)]
        connection.send_bytes(pb.AttendStreamRequest(requests=twice).SerializeToString())
        connection.end()
        await serving

    gated.gate.set()
    limits = InlineLimits() if is_inline else NEVER_INLINE
    connection, _ = streaming(scenario, inline_limits=limits)
    assert sorted(reply.id for reply in connection.replies) == [1, 2, 2, 3, 4]
    (refused,) = (reply for reply in connection.replies if reply.HasField("error"))
    assert refused.id == 2
    assert "no request awaits" in refused.error.message


def test_a_group_runs_in_batches_that_the_model_allows(streaming_inline, gated):
    gated.batching = Batching(max_tokens=6, solo_above_tokens=6)

    async def scenario(connection, serving, draining):
        connection.send(requests(*range(1, 9)))  # of two tokens each
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert gated.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]
    sizes = [reply.response.execution.batch_size for reply in connection.replies]
    assert sizes == [3, 3, 3, 3, 3, 3, 2, 2]


def test_a_request_in_a_thread_does_not_hold_up_inline_requests(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1, length=9)})
        await begun(gated)
        connection.send({2: message(2), 3: message(3, length=9), 4: message(4)})
        await settle()
        assert connection.ids == [[2, 4]]
        gated.gate.set()
        connection.end()
        await serving

    limits = InlineLimits(max_moved_bytes=500)  # 9 tokens are 864 bytes, 2 are 192
    connection, _ = streaming(scenario, inline_limits=limits)
    assert sorted(connection.answered) == [1, 2, 3, 4]
