"""A stream's reading, running and writing, with a connection that the test holds both ends of."""

from __future__ import annotations

import asyncio
import sys

import numpy as np
import pytest
from asked import NO_DEADLINE
from gated import begun, settle

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.engine import cost
from polyhead_server.errors import InvalidRequestError, StalledError
from polyhead_server.planning.plan_cache import Forms
from polyhead_server.rpc.handlers import CallContext
from polyhead_server.services import stream_session as outbox
from polyhead_server.services import stream_session as outbox_module
from polyhead_server.services.attention import inline_batcher as tiny_requests
from polyhead_server.services.attention import stream as stream_module
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.settings import ServerSettings


class Connection:
    """What gRPC's would be: messages in, messages out, and a writer that can be held up."""

    def __init__(self):
        self.incoming = asyncio.Queue()
        self.num_read = 0
        self.written = []
        self.has_written = asyncio.Event()
        self.can_write = asyncio.Event()
        self.can_write.set()

    async def read(self):
        message = await self.incoming.get()
        self.num_read += 1
        return message

    async def write(self, response):
        self.written.append(pb.AttendStreamResponse.FromString(response))
        self.has_written.set()
        await self.can_write.wait()

    def send(self, requests=(), cancelled=(), num_awaited=0):
        streamed = [pb.StreamedRequest(id=n, call=call) for n, call in dict(requests).items()]
        message = pb.AttendStreamRequest(
            requests=streamed, cancelled_ids=cancelled, num_awaited=num_awaited
        )
        self.incoming.put_nowait(message.SerializeToString())

    def end(self):
        self.incoming.put_nowait(None)

    @property
    def numbers(self):
        """Of the replies, message by message; none is a failure."""
        replies = [reply for message in self.written for reply in message.replies]
        assert all(reply.HasField("response") for reply in replies)
        return [[reply.id for reply in message.replies] for message in self.written]

    @property
    def answered(self):
        """The numbers of the replies, in order."""
        return [number for numbers in self.numbers for number in numbers]


class Models:
    """A repository of one model."""

    generation = 0

    def __init__(self, model):
        self._model = model

    def get(self, name, version):
        return self._model


@pytest.fixture
def streaming(run_async, make_scheduler, gated):
    """Run a scenario beside a stream; the stream has ended well when it has."""

    def streaming(scenario, *, share_bytes=1 << 30, max_running=1000, **queue):
        async def both():
            connection, draining = Connection(), asyncio.Event()
            scheduler = make_scheduler(**queue)
            forms = Forms(Models(gated), ServerSettings())
            context = CallContext("a.Service/Stream", NO_DEADLINE)
            stream = RequestStream(
                connection,
                context,
                forms,
                scheduler,
                max_request_bytes=1 << 30,
                share_bytes=lambda: share_bytes,
                max_running=max_running,
            )
            serving = asyncio.create_task(stream.serve(draining))
            result = await scenario(connection, serving, draining)
            await asyncio.wait((serving,))
            for _ in range(3):
                await asyncio.sleep(0)  # what was cancelled has ended
            assert not stream._running
            assert not stream._tiny
            return connection, serving, result

        return run_async(both())

    return streaming


def message(number, length=2):
    query = np.full((1, length, 8), number, np.float32)
    return pb.AttendRequest(model="plain", query=to_tensor(query))


@pytest.fixture
def tiny(monkeypatch, gated, streaming):
    """All requests are tiny, and run inline: no gate may be closed."""
    monkeypatch.setattr(cost, "_TINY_MULTIPLY_ADDS", 10**9)
    gated.gate.set()


@pytest.mark.usefixtures("tiny")
def test_what_becomes_ready_while_one_message_is_sent_is_the_next(streaming):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send({1: message(1)})
        await settle()
        for number in (2, 3, 4):
            connection.send({number: message(number)})
        await settle()
        assert connection.numbers == [[1]]
        connection.can_write.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert connection.numbers == [[1], [2, 3, 4]]


@pytest.mark.usefixtures("tiny")
def test_messages_of_replies_are_of_bounded_size(streaming, monkeypatch):
    for module in (outbox, tiny_requests):
        monkeypatch.setattr(module, "MESSAGE_BYTES", 300)

    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 8)})
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert connection.answered == [1, 2, 3, 4, 5, 6, 7]
    assert all(each.ByteSize() <= 300 for each in connection.written)
    assert len(connection.written) < 7


@pytest.mark.usefixtures("tiny")
def test_tiny_ones_run_in_pieces_between_which_others_have_their_turn(
    streaming, monkeypatch, gated
):
    monkeypatch.setattr(tiny_requests, "_INLINE_MULTIPLY_ADDS", 1)

    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 6)})
        connection.end()
        turns = 0
        while not serving.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    connection, _, turns = streaming(scenario)
    assert gated.batches == [[1], [2], [3], [4], [5]]
    assert turns >= 5
    assert connection.answered == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("limit", ["_MAX_HELD", "_MAX_HELD_BYTES"])
def test_a_caller_who_does_not_read_is_not_read(streaming, monkeypatch, limit):
    monkeypatch.setattr(outbox_module, "_MIN_HELD_BYTES", 0)
    module, value = {"_MAX_HELD": (stream_module, 3), "_MAX_HELD_BYTES": (outbox_module, 500)}[
        limit
    ]
    monkeypatch.setattr(module, limit, value)

    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        for number in range(1, 21):
            connection.send({number: message(number)})
        for _ in range(10):
            await settle()
        held_up = connection.num_read
        connection.can_write.set()
        connection.end()
        await serving
        return held_up

    connection, _, held_up = streaming(scenario)
    assert 2 <= held_up <= 7
    assert sorted(connection.answered) == [*range(1, 21)]


def test_a_stream_waits_where_a_call_would_be_refused(streaming, gated):
    """It has its share of the queue, and reads no more while that is taken."""

    async def scenario(connection, serving, draining):
        connection.send({number: message(number) for number in range(1, 21)})
        await begun(gated)
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario, max_running=2, max_queue_size=2)
    assert sorted(connection.answered) == [*range(1, 21)]


def test_a_number_that_was_given_up_is_free_at_once(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1)})
        await begun(gated)
        connection.send({1: message(2)}, cancelled=[1])
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert connection.numbers == [[1]]
    assert gated.begun == [1, 2]


@pytest.mark.usefixtures("tiny")
def test_a_caller_who_takes_no_reply_is_cut_off(streaming, monkeypatch):
    monkeypatch.setattr(outbox, "_MAX_WRITE_S", 0.01)

    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send({1: message(1)})
        with pytest.raises(StalledError, match="read replies as they come"):
            await serving

    streaming(scenario)


def test_a_server_that_wants_the_stream_renewed_answers_what_it_has_read(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1), 2: message(2, length=3)})
        await begun(gated)
        draining.set()
        await settle()
        connection.send({3: message(3)})  # too late
        assert not serving.done()
        gated.gate.set()
        await serving

    connection, _, _ = streaming(scenario)
    assert connection.answered == [1, 2]
    assert gated.begun == [1, 2]


@pytest.mark.usefixtures("tiny")
def test_a_message_that_has_been_begun_is_read_to_its_end(streaming):
    """Even if the server wants the stream renewed in between."""

    async def scenario(connection, serving, draining):
        connection.send({number: message(number) for number in range(500)})
        await connection.has_written.wait()  # some are answered, others not yet read
        draining.set()
        await serving

    connection, _, _ = streaming(scenario)
    assert sorted(connection.answered) == [*range(500)]


def test_a_message_that_is_none_ends_the_stream_when_the_rest_is_answered(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1)})
        connection.incoming.put_nowait(b"\xff")
        await begun(gated)
        gated.gate.set()
        with pytest.raises(InvalidRequestError, match="AttendStreamRequest"):
            await serving

    connection, _, _ = streaming(scenario)
    assert connection.numbers == [[1]]


@pytest.mark.parametrize("how", ["cancelled", "broken"])
def test_a_caller_who_is_gone_leaves_nothing_behind(streaming, gated, how):
    """gRPC cancels the call, or the writer is the first to hear of it; nobody complains."""

    async def scenario(connection, serving, draining):
        connection.send({1: message(1)})
        await begun(gated)
        connection.send({2: message(2), 3: message(3)})
        connection.incoming.put_nowait(b"\xff")  # an error that nobody will hear of
        await settle()
        if how == "broken":
            connection.send({4: message(4)})

            async def fail(_):
                raise asyncio.CancelledError

            connection.write = fail
            gated.gate.set()
        else:
            serving.cancel()
        await asyncio.wait((serving,))
        gated.gate.set()
        return

    _, serving, _ = streaming(scenario)
    assert serving.cancelled() or isinstance(serving.exception(), InvalidRequestError)


def test_cancelled_ones_leave_the_queue_and_the_stream(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: message(1)})
        await begun(gated)
        connection.send({2: message(2), 3: message(3)})
        await settle()
        connection.send(cancelled=[2, 77])
        await settle()
        connection.send({2: message(4)})  # its number is free again
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert sorted(connection.answered) == [1, 2, 3]
    assert sorted(gated.begun) == [1, 3, 4]


def test_a_request_that_waits_does_not_keep_the_message_that_it_came_in(streaming, gated):
    """Of which only its own bytes are accounted for."""
    newer = b"\x7a" + b"\x80\x80\x80\x01" + bytes(1 << 21)  # field 15: 2 MiB

    async def scenario(connection, serving, draining):
        small = pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=1, call=message(1))])
        data = small.SerializeToString() + newer
        before = sys.getrefcount(data)
        connection.incoming.put_nowait(data)
        await begun(gated)
        await settle()
        assert connection.num_read == 1
        assert sys.getrefcount(data) == before
        gated.gate.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert connection.numbers == [[1]]


@pytest.mark.usefixtures("tiny")
def test_alike_requests_are_one_batch_and_one_answer(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 8)})
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert gated.batches == [[1, 2, 3, 4, 5, 6, 7]]
    assert connection.numbers == [[1, 2, 3, 4, 5, 6, 7]]
    (answer,) = connection.written
    alone = []
    for reply in answer.replies:
        assert reply.response.execution.batch_size == 7
        alone.append(reply.response.output.data)
    assert len(set(alone)) == 7


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("wrong", [1, 3, 7])
def test_what_is_wrong_with_one_is_not_noticed_by_those_that_are_alike(streaming, wrong):
    async def scenario(connection, serving, draining):
        connection.send({n: message(np.nan if n == wrong else n) for n in range(1, 8)})
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    replies = [reply for answer in connection.written for reply in answer.replies]
    assert [reply.id for reply in replies] == [1, 2, 3, 4, 5, 6, 7]
    for reply in replies:
        assert reply.HasField("error") == (reply.id == wrong)
    assert "NaN" in replies[wrong - 1].error.message


@pytest.mark.usefixtures("tiny")
def test_one_of_those_that_are_alike_can_be_given_up(streaming, monkeypatch, gated):
    monkeypatch.setattr(outbox_module, "_MIN_HELD_BYTES", 0)
    monkeypatch.setattr(outbox_module, "_MAX_HELD_BYTES", 1000)

    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send({n: message(n) for n in (1, 2)})
        await settle()
        connection.send({n: message(n) for n in range(3, 9)})  # waits for the answer to be taken
        await settle()
        connection.send({20: message(20)}, cancelled=[4, 8])
        connection.send({4: message(24)})  # its number is free again
        await settle()
        connection.can_write.set()
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert sorted(connection.answered) == [1, 2, 3, 4, 5, 6, 7, 20]


@pytest.mark.usefixtures("tiny")
def test_the_same_number_twice_among_those_that_are_alike(streaming):
    async def scenario(connection, serving, draining):
        twice = [pb.StreamedRequest(id=n, call=message(n)) for n in (1, 2, 3, 2, 4)]
        data = pb.AttendStreamRequest(requests=twice).SerializeToString()
        connection.incoming.put_nowait(data)
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    replies = [reply for answer in connection.written for reply in answer.replies]
    assert sorted(reply.id for reply in replies) == [1, 2, 2, 3, 4]
    (refused,) = (reply for reply in replies if reply.HasField("error"))
    assert refused.id == 2
    assert "no request awaits" in refused.error.message


@pytest.mark.usefixtures("tiny")
def test_much_of_it_is_answered_in_two_halves(streaming, monkeypatch, gated):
    """The caller has the first while the second is run: a caller who waits for nothing else."""
    monkeypatch.setattr(tiny_requests, "_HALVED_MULTIPLY_ADDS", 1)

    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 9)}, num_awaited=8)
        await settle()
        connection.send({n: message(n) for n in range(11, 15)}, num_awaited=8)
        await settle()
        connection.send({n: message(n) for n in range(21, 25)})
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    answers = [[1, 2, 3, 4], [5, 6, 7, 8], [11, 12, 13, 14], [21, 22, 23, 24]]
    assert connection.numbers == gated.batches == answers


@pytest.mark.usefixtures("tiny", "gated")
@pytest.mark.parametrize("num_awaited", [1, 2**32 - 1])
def test_how_many_replies_are_awaited_is_a_hint_and_no_more(streaming, monkeypatch, num_awaited):
    monkeypatch.setattr(tiny_requests, "_HALVED_MULTIPLY_ADDS", 1)

    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 9)}, num_awaited=num_awaited)
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert sorted(connection.answered) == list(range(1, 9))


@pytest.mark.usefixtures("tiny")
def test_alike_requests_run_in_batches_that_the_model_allows(streaming, gated):
    gated.batching = cost.Batching(max_tokens=6, solo_above_tokens=6)

    async def scenario(connection, serving, draining):
        connection.send({n: message(n) for n in range(1, 9)})  # of two tokens
        connection.end()
        await serving

    connection, _, _ = streaming(scenario)
    assert gated.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]
    sizes = [r.response.execution.batch_size for each in connection.written for r in each.replies]
    assert sizes == [3, 3, 3, 3, 3, 3, 2, 2]
