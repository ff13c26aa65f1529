"""The invariants of StreamSession, which the streams of both services share."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from fake_connection import FakeConnection
from fake_requests import NEVER_INLINE, NO_DEADLINE, stream_plans
from gated_scheduler import settle

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.codec.response import Response
from polyhead_server.errors import InvalidRequestError
from polyhead_server.inference import grpc_inference_pb2 as oip
from polyhead_server.limits import StreamLimits
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.services.attention.refusals import RefusalPace
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.services.oip.stream import InferStream
from polyhead_server.services.stream_session import SendBuffer
from polyhead_server.settings import ServerSettings

CONTEXT = CallContext("a.Service/Stream", NO_DEADLINE)


class AttentionStreams:
    """Makes AttendStreams, whose requests wait for the gate of their model."""

    def __init__(self, model, make_scheduler):
        self._model = model
        self._make_scheduler = make_scheduler

    def make(self, connection, limits):
        settings = ServerSettings(inline_limits=NEVER_INLINE, stream_limits=limits)
        return RequestStream(
            connection,
            CONTEXT,
            stream_plans(self._model, settings),
            self._make_scheduler(max_queue_size=1000),
            settings,
            share_bytes=lambda: 1 << 30,
            pace=RefusalPace(seconds_each=0),
        )

    def message(self, number):
        query = to_tensor(np.full((1, 2, 8), number, np.float32))
        call = pb.AttendRequest(model="plain", query=query)
        requests = [pb.StreamedRequest(id=number, call=call)]
        return pb.AttendStreamRequest(requests=requests).SerializeToString()

    def ids(self, sent):
        messages = map(pb.AttendStreamResponse.FromString, sent)
        replies = [reply for message in messages for reply in message.replies]
        assert all(reply.HasField("response") for reply in replies)
        return sorted(reply.id for reply in replies)

    def open_gate(self):
        self._model.gate.set()


class InferStreams:
    """Makes ModelStreamInfers, whose requests wait for a gate."""

    def __init__(self):
        self._gate = asyncio.Event()

    def make(self, connection, limits):
        return InferStream(connection, CONTEXT, self._infer, limits, lambda: 1 << 30)

    async def _infer(self, message, _):
        await self._gate.wait()
        request = oip.ModelInferRequest.FromString(message)
        return oip.ModelInferResponse(id=request.id).SerializeToString()

    def message(self, number):
        return oip.ModelInferRequest(id=str(number), model_name="m" * 100).SerializeToString()

    def ids(self, sent):
        replies = list(map(oip.ModelStreamInferResponse.FromString, sent))
        assert not any(reply.error_message for reply in replies)
        return [int(reply.infer_response.id) for reply in replies]  # in the requests' order

    def open_gate(self):
        self._gate.set()


@pytest.fixture(params=["AttendStream", "ModelStreamInfer"])
def streams(request, gated, make_scheduler):
    if request.param == "AttendStream":
        return AttentionStreams(gated, make_scheduler)
    return InferStreams()


@pytest.fixture
def serving(run_async, streams):
    """Run a scenario beside a stream, and check that the stream leaves no task behind."""

    def serving(scenario, **limits):
        async def both():
            connection, draining = FakeConnection(), asyncio.Event()
            before = asyncio.all_tasks()
            stream = streams.make(connection, StreamLimits(**limits))
            task = asyncio.create_task(stream.serve(draining))
            await scenario(connection, task, draining)
            assert task.done()
            await settle()  # what was cancelled ends
            assert asyncio.all_tasks() == before
            return connection

        return run_async(both())

    return serving


def test_a_stream_that_ends_well_has_answered_everything(serving, streams):
    async def scenario(connection, task, draining):
        for number in range(1, 8):
            connection.send_bytes(streams.message(number))
        connection.end()
        await settle()
        assert connection.sent == []
        assert not task.done()
        streams.open_gate()
        await task

    assert streams.ids(serving(scenario).sent) == [1, 2, 3, 4, 5, 6, 7]


def test_a_stream_that_ends_because_the_server_drains_has_answered_what_it_read(serving, streams):
    async def scenario(connection, task, draining):
        connection.send_bytes(streams.message(1))
        connection.send_bytes(streams.message(2))
        await settle()
        draining.set()
        await settle()
        connection.send_bytes(streams.message(3))
        await settle()
        assert not task.done()
        streams.open_gate()
        await task

    connection = serving(scenario)
    assert connection.num_read == 2
    assert streams.ids(connection.sent) == [1, 2]


def test_a_stream_that_was_full_when_the_server_drained_ends(serving, streams):
    """It reads no more when it has capacity again, although its client does not end it."""

    async def scenario(connection, task, draining):
        connection.send_bytes(streams.message(1))
        connection.send_bytes(streams.message(2))
        await settle()
        assert connection.num_read == 1
        draining.set()
        await settle()
        streams.open_gate()
        await asyncio.wait_for(task, 10)

    assert streams.ids(serving(scenario, max_requests=1, max_ordered_requests=1).sent) == [1]


@pytest.mark.parametrize(
    "limits",
    [{"max_requests": 3, "max_ordered_requests": 3}, {"min_bytes": 0, "max_bytes": 300}],
    ids=["requests", "bytes"],
)
def test_what_a_stream_holds_is_bounded(serving, streams, limits):
    """While requests run, and while the client does not take their responses."""

    async def scenario(connection, task, draining):
        connection.can_write.clear()
        for number in range(1, 21):
            connection.send_bytes(streams.message(number))
        await settle()
        assert 1 <= connection.num_read <= 3
        streams.open_gate()
        await connection.has_written.wait()
        await settle()
        assert connection.num_read <= 7
        connection.can_write.set()
        connection.end()
        await task

    assert streams.ids(serving(scenario, **limits).sent) == [*range(1, 21)]


def test_one_request_may_exceed_the_limit(serving, streams):
    async def scenario(connection, task, draining):
        streams.open_gate()
        connection.send_bytes(streams.message(1))
        connection.send_bytes(streams.message(2))
        connection.end()
        await task

    assert streams.ids(serving(scenario, min_bytes=0, max_bytes=0).sent) == [1, 2]


def test_a_cancelled_stream_cancels_its_requests(serving, streams):
    async def scenario(connection, task, draining):
        for number in (1, 2, 3):
            connection.send_bytes(streams.message(number))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        streams.open_gate()

    assert serving(scenario).sent == []


def test_a_stream_whose_connection_breaks_cancels_its_requests(serving, streams):
    async def scenario(connection, task, draining):
        async def fail(_):
            raise asyncio.CancelledError

        connection.write = fail
        for number in (1, 2, 3):
            connection.send_bytes(streams.message(number))
        await settle()
        streams.open_gate()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert serving(scenario).sent == []


def test_an_error_of_the_reader_ends_the_stream_once_the_rest_is_answered(serving, streams):
    async def scenario(connection, task, draining):
        read = connection.read

        async def read_once():
            connection.read = fail
            return await read()

        async def fail():
            raise InvalidRequestError("request", "is malformed", "MALFORMED")

        connection.read = read_once
        connection.send_bytes(streams.message(1))
        await settle()
        assert not task.done()
        streams.open_gate()
        with pytest.raises(InvalidRequestError):
            await task

    assert streams.ids(serving(scenario).sent) == [1]


# ---------------------------------------------------------------- responses that wait to be sent


def test_a_send_buffer_joins_responses_up_to_the_size_of_a_message():
    buffer = SendBuffer(10)
    for data in (b"aaaa", b"bbbb", b"cccc", b"d" * 30, b"e"):
        buffer.add(Response.of(data))
    assert (len(buffer), buffer.num_bytes) == (5, 43)
    messages = []
    while buffer:
        messages.append(buffer.next_message()[0])
    assert messages == [b"aaaabbbb", b"cccc", b"d" * 30, b"e"]
    assert buffer.num_bytes == 0
