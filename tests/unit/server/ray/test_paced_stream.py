"""A stream of answers goes on as the caller takes them, though Serve holds any number."""

from __future__ import annotations

import asyncio

import grpc

from polyhead_server.ray.answer import Answer
from polyhead_server.ray.call import ReplicaCall
from polyhead_server.ray.calls import ReplicaCalls
from polyhead_server.ray.paced_stream import ANSWERS_AHEAD, PacedStream

NUM_ANSWERS = 10


class Context:
    """What Serve gives a replica of a call."""

    def invocation_metadata(self):
        return ()


class Rows(grpc.GenericRpcHandler):
    """Answers a request with many messages, as fast as they are taken."""

    def __init__(self):
        self.num_written = 0

    def service(self, _):
        return grpc.stream_stream_rpc_method_handler(self.serve)

    async def serve(self, _, call):
        assert await call.read() == b"request"
        for number in range(NUM_ANSWERS):
            await call.write(bytes([number]))
            self.num_written += 1


async def idle():
    """Let all that can run do so."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_rows_wait_for_their_reader():
    async def run():
        rows, calls, stream = Rows(), ReplicaCalls(), PacedStream.of_request(b"request")
        await calls.start([rows])
        call = ReplicaCall(Context(), stream.messages)
        answers = stream.answers(calls.answers("/rows", call))
        seen = []
        async for answer in answers:
            await idle()
            seen.append((answer.message[0], rows.num_written))
        return seen

    seen = asyncio.run(run())
    assert [number for number, _ in seen] == list(range(NUM_ANSWERS))
    assert all(written <= number + ANSWERS_AHEAD for number, written in seen), seen


def test_a_caller_who_takes_no_answers_is_not_read_from():
    async def run():
        num_read = 0

        async def messages():
            while True:
                yield b"message"

        stream = PacedStream.of_messages(messages())

        async def serve():
            nonlocal num_read
            async for message in stream.messages:
                num_read += 1
                yield Answer(message)
                await asyncio.sleep(0)

        answers = stream.answers(serve())
        await anext(answers)
        await idle()
        before = num_read
        for _ in range(20):
            await anext(answers)
        await idle()
        await answers.aclose()
        return before, num_read

    before, after = asyncio.run(run())
    assert before <= ANSWERS_AHEAD + 2
    assert 20 < after <= before + 22


def test_a_caller_who_has_gone_ends_the_handler():
    async def run():
        rows, calls, stream = Rows(), ReplicaCalls(), PacedStream.of_request(b"request")

        async def ends():  # as Serve ends it when the caller has gone
            yield b"request"

        await calls.start([rows])
        call = ReplicaCall(Context(), ends())
        answers = [answer async for answer in stream.answers(calls.answers("/rows", call))]
        return answers, rows.num_written

    answers, written = asyncio.run(run())
    assert written == ANSWERS_AHEAD
    assert answers[-1].code is grpc.StatusCode.CANCELLED
