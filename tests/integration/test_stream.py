"""AttendStream: every request is answered as Attend would have answered it."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status
from raw_calls import (
    GIVEN_AWAY,
    GOOD,
    SERVICE,
    WIDTH,
    call,
    channel_that_outlives,
    delimited,
    embeddings,
    open_channel,
    read_refusal,
    request,
    tensor,
)
from run_gate import PATIENCE_S, numbered, server_in_threads
from streams import Stream

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.limits import StreamLimits
from polyhead_server.running import running_server
from polyhead_server.services.attention.stream import RequestStream
from polyhead_server.services.stream_session import SendBuffer


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


def attend(channel, message):
    return pb.AttendResponse.FromString(call(channel, message.SerializeToString()))


def reason_of(reply):
    """Return the reason of a request's failure."""
    assert reply.WhichOneof("outcome") == "error"
    info = errors_pb2.ErrorInfo()
    (packed,) = (d for d in reply.error.details if d.type_url.endswith("google.rpc.ErrorInfo"))
    info.ParseFromString(packed.value)
    return info.reason


def assert_same_answer(reply, response):
    """Compare a reply with a response of Attend, apart from times and batch sizes."""
    assert reply.WhichOneof("outcome") == "response"
    given, expected = pb.AttendResponse(), pb.AttendResponse()
    given.CopyFrom(reply.response)
    expected.CopyFrom(response)
    for each in (given, expected):
        assert each.execution.batch_size > 0
        for field in ("queue_ms", "compute_ms", "batch_size"):
            each.execution.ClearField(field)
    for name in ("output", "attn_weights"):
        assert given.HasField(name) == expected.HasField(name)
        if given.HasField(name):
            arrays = [to_array(getattr(each, name)) for each in (given, expected)]
            np.testing.assert_allclose(*arrays, rtol=0, atol=1e-6)
            for each in (given, expected):
                getattr(each, name).ClearField("data")
    assert given == expected


# ---------------------------------------------------------------- answers


def calls_of(blocks):
    """Make requests of every kind, to every model."""
    wanted = pb.AttnWeightsSelection(heads=[1], queries=[2, 0], top_k=2)
    for name, block in blocks.items():
        config = block.config
        for length in (3, 40):
            given = {"query": to_tensor(embeddings(2, length, config.embed_dim))}
            if not config.embed_dim == config.kdim == config.vdim:
                given["key"] = to_tensor(embeddings(2, length, config.kdim, seed=1))
                given["value"] = to_tensor(embeddings(2, length, config.vdim, seed=2))
            yield request(model=name, request_id=f"{name} {length}", **given)
            yield request(model=name, attn_weights={}, **given)
            yield request(model=name, attn_weights=wanted, omit_output=True, **given)
            yield request(model=name, kv_lengths=[length, 2], **given)
            yield request(model=name, attn_mask=to_tensor(np.eye(length, dtype=bool)), **given)
            yield request(model=name, output_dtype=pb.DATA_TYPE_BFLOAT16, **given)


@pytest.mark.parametrize("per_message", [1, 7, 1000])
def test_answers_equal_those_of_attend(channel, blocks, per_message):
    messages = dict(enumerate(calls_of(blocks), 10**18))
    with Stream(channel, timeout=60) as stream:
        numbers = list(messages)
        for first in range(0, len(numbers), per_message):
            some = numbers[first : first + per_message]
            stream.send({number: messages[number] for number in some})
        replies = stream.replies(len(messages))
        assert not stream.rest()
    for number, message in messages.items():
        assert_same_answer(replies[number], attend(channel, message))


def constant(number):
    """A request whose every row must come back as one constant row."""
    rng = np.random.default_rng(number)
    batch_size, q_seq_len = int(rng.integers(1, 4)), int(rng.choice([1, 2, 5, 5, 5, 60]))
    query = rng.standard_normal((batch_size, q_seq_len, WIDTH), dtype=np.float32)
    value = np.full((batch_size, q_seq_len, WIDTH), number % 97 - 48, np.float32)
    return request(
        query=to_tensor(query),
        key=to_tensor(query),
        value=to_tensor(value),
        request_id=f"canary {number}",
        attn_weights={} if number % 7 == 0 else None,
    )


@pytest.mark.parametrize("per_message", [1, 20, 500])
def test_each_request_gets_its_own_answer(channel, blocks, per_message):
    """500 requests at once, each with its own constant; some of them fail."""
    block, count = blocks["plain"], 500
    messages = {number: constant(number) for number in range(count)}
    for number in range(0, count, 11):
        array = to_array(messages[number].query).copy()
        array[0, 0, 0] = np.nan
        messages[number].query.CopyFrom(to_tensor(array))
    w = {name: np.asarray(weight, np.float64) for name, weight in block.weights.items()}
    with Stream(channel, timeout=60) as stream:
        for first in range(0, count, per_message):
            stream.send({n: messages[n] for n in range(first, first + per_message)})
        replies = stream.replies(count)
    for number, reply in replies.items():
        if number % 11 == 0:
            assert reason_of(reply) == "NON_FINITE"
            continue
        assert reply.response.request_id == f"canary {number}"
        context = w["v_proj.weight"].sum(axis=1) * (number % 97 - 48) + w["v_proj.bias"]
        row = w["out_proj.weight"] @ context + w["out_proj.bias"]
        output = to_array(reply.response.output)
        np.testing.assert_allclose(output, np.broadcast_to(row, output.shape), rtol=0, atol=1e-4)


def test_two_streams_and_unary_calls_do_not_disturb_each_other(server):
    with (
        channel_that_outlives(server) as channel,
        open_channel(server) as other,
        Stream(channel) as one,
        Stream(other) as two,
    ):
        for number in range(200):  # the same numbers in both, for other requests
            one.send({number: request(request_id=f"one {number}")})
            two.send({number: request(model="no-bias", request_id=f"two {number}")})
            if number == 100:
                two.send({1000: request(model="missing")})
                assert attend(channel, request(request_id="unary")).request_id == "unary"
        for stream, name, model in ((one, "one", "plain"), (two, "two", "no-bias")):
            replies = stream.replies(200 + (name == "two"))
            for number in range(200):
                assert replies[number].response.request_id == f"{name} {number}"
                assert replies[number].response.execution.model == model
            assert not stream.rest()


def test_small_requests_that_come_together_share_a_run(channel):
    with Stream(channel) as stream:
        stream.send({number: request() for number in range(10)})
        sizes = {r.response.execution.batch_size for r in stream.replies(10).values()}
    assert sizes == {20}


def test_small_and_large_requests_in_one_message(channel):
    large = request(query=to_tensor(embeddings(8, 400, WIDTH)))
    messages = {1: request(), 2: large, 3: request(request_id="3"), 4: large, 5: request()}
    with Stream(channel) as stream:
        stream.send(messages)
        replies = stream.rest()
    assert set(replies) == set(messages)
    for number, message in messages.items():
        assert_same_answer(replies[number], attend(channel, message))


def test_an_empty_message(channel):
    with Stream(channel) as stream:
        stream.send()
        assert not stream.rest()


def test_half_closed_streams_end_when_all_is_answered(repository, gate):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        stream.send({n: numbered(n) for n in (1, 2, 3)})
        gate.wait_for_a_run()
        stream.half_close()
        gate.opened.set()
        assert set(stream.rest()) == {1, 2, 3}


# ---------------------------------------------------------------- failures in their places

NAN = to_tensor(np.full((2, 3, WIDTH), np.nan, np.float32))
BAD = {
    "no query": pb.AttendRequest(model="plain"),
    "no model": request(model=""),
    "missing model": request(model="missing"),
    "missing version": request(model_version=9),
    "bad name": request(model="../x"),
    "shape": request(query=to_tensor(embeddings(2, 3, WIDTH + 1))),
    "bytes": request(query=tensor([2, 3, WIDTH], b"?")),
    "dtype": request(query=tensor([2, 3, WIDTH], dtype=99)),
    "numbers": request(query=NAN),
    "numbers of a large one": request(
        query=to_tensor(np.full((8, 400, WIDTH), np.nan, np.float32))
    ),
    "bool": request(attn_mask=tensor([3], b"\0\1\2", pb.DATA_TYPE_BOOL)),
    "positions": request(positions=to_tensor(np.arange(3))),
    "selection": request(attn_weights=pb.AttnWeightsSelection(heads=[9])),
    "id": request(request_id="x" * 257),
    "too large": request(
        query=to_tensor(embeddings(1, 9000, WIDTH).astype(np.float16)), attn_weights={}
    ),
}


def unary_status(channel, data):
    """The status that Attend ends with, as it is in its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, data)
    read_refusal(caught.value)
    status = rpc_status.from_call(caught.value)
    return errors_pb2.RpcStatus.FromString(status.SerializeToString())


@pytest.mark.parametrize("name", BAD)
def test_an_error_is_the_same_as_attends(channel, name):
    with Stream(channel) as stream:
        for number in (2, 5):  # the second one may be of a template that is known
            stream.send({number - 1: request(), number: BAD[name], number + 1: request()})
        replies = stream.rest()
    expected = unary_status(channel, BAD[name].SerializeToString())
    for number in (2, 5):
        assert replies[number].error == expected
        for other in (number - 1, number + 1):
            assert replies[other].WhichOneof("outcome") == "response"
    assert not GIVEN_AWAY.search(str(expected))


def test_a_request_that_is_no_message_fails_alone(channel):
    for data in (b"\xff", GOOD[:-1], b"\x0a\x02\xff\xfe"):
        good = pb.StreamedRequest(id=1, call=request()).SerializeToString()
        bad = pb.StreamedRequest(id=2).SerializeToString() + delimited(3, data)
        with Stream(channel) as stream:
            stream.send_bytes(delimited(1, bad) + delimited(1, good))
            replies = stream.rest()
        assert replies[1].WhichOneof("outcome") == "response"
        assert replies[2].error == unary_status(channel, data)


def test_a_request_over_the_limit_fails_alone(repository):
    with (
        running_server(repository, threads=1, max_request_bytes=4096) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        large = request(query=to_tensor(embeddings(1, 70, WIDTH)))
        stream.send({1: large, 2: request(), 3: request()})
        replies = stream.rest()
        assert reason_of(replies[1]) == "REQUEST_TOO_LARGE"
        assert replies[1].error == unary_status(channel, large.SerializeToString())
        assert replies[2].WhichOneof("outcome") == replies[3].WhichOneof("outcome") == "response"


@pytest.mark.parametrize(
    "where",
    [
        "planning.prepared_call.plan_call",
        "engine.model.Model.run_graph",
        "codec.request.write_response",
    ],
)
def test_a_bug_gives_nothing_away_and_disturbs_no_other(channel, monkeypatch, caplog, where):
    class BugError(Exception):  # of a type of its own, so that its traceback is logged
        pass

    def fail(*_, **__):
        raise BugError("/secret/path")

    with Stream(channel) as stream:
        of_a_new_template = request(query=to_tensor(embeddings(1, 30 + len(where), WIDTH)))
        with monkeypatch.context() as patched:
            patched.setattr(f"polyhead_server.{where}", fail)
            stream.send({1: of_a_new_template})
            error = stream.replies(1)[1].error
        assert error.code == grpc.StatusCode.INTERNAL.value[0]
        assert error.message.startswith("internal error, incident ")
        assert "secret" not in str(error)
        stream.send({2: of_a_new_template})
        assert stream.rest()[2].WhichOneof("outcome") == "response"
    assert "/secret/path" in caplog.text


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0b" * 200])
def test_a_malformed_message_ends_the_stream_after_the_rest_is_answered(channel, data):
    with Stream(channel) as stream:
        stream.send({1: request()})
        stream.send_bytes(data)
        assert set(stream.replies(1)) == {1}
        with pytest.raises(grpc.RpcError) as caught:
            next(stream.call)
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MALFORMED")


def test_an_id_that_is_in_use_is_refused(repository, gate):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        stream.send({1: numbered(1)})
        gate.wait_for_a_run()
        stream.send({1: numbered(2)})
        assert reason_of(stream.replies(1)[1]) == "DUPLICATE"
        gate.opened.set()
        assert stream.replies(1)[1].response.request_id == "1"
        stream.send({1: numbered(3)})  # answered: free again
        assert stream.rest()[1].response.request_id == "3"
    assert gate.begun == [1, 3]


# ---------------------------------------------------------------- deadlines and cancellation


@pytest.mark.parametrize("timeout_us", [-1, -(2**63)])
def test_a_timeout_below_zero_is_refused(channel, timeout_us):
    with Stream(channel) as stream:
        stream.send({1: request()}, timeout_us=timeout_us)
        reply = stream.rest()[1]
    assert reason_of(reply) == "OUT_OF_RANGE"
    assert "timeout_us" in reply.error.message


@pytest.mark.parametrize("timeout_us", [0, 60_000_000, 2**63 - 1])
def test_a_timeout_that_does_not_pass(channel, timeout_us):
    large = request(query=to_tensor(embeddings(8, 400, WIDTH)))
    with Stream(channel) as stream:
        stream.send({1: request(), 2: large}, timeout_us=timeout_us)
        for reply in stream.rest().values():
            assert reply.WhichOneof("outcome") == "response"


def test_deadlines_that_pass_in_the_queue_and_in_mid_run(repository, gate, calls):
    """A request that waits never runs, one that runs is ended, and the others are answered."""
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        stream.send({1: numbered(1)}, timeout_us=1_000_000)
        gate.wait_for_a_run()
        stream.send({2: numbered(2, kv_lengths=[1])}, timeout_us=1_000)
        stream.send({3: numbered(3)})
        for number, reply in stream.replies(2).items():
            assert number in (1, 2)
            assert reply.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert reason_of(reply) == "DEADLINE_EXCEEDED"
        gate.opened.set()
        assert stream.rest()[3].response.request_id == "3"
        assert calls.code_of(1) == calls.code_of(2) == "DEADLINE_EXCEEDED"
    assert gate.begun == [1, 3]


def test_a_small_request_past_its_deadline_is_not_run(channel):
    with Stream(channel) as stream:
        stream.send({1: request()}, timeout_us=1)  # less than a turn of the event loop takes
        assert reason_of(stream.rest()[1]) == "DEADLINE_EXCEEDED"


def test_the_streams_own_deadline_ends_it(repository, gate, calls):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel, timeout=2) as stream,
    ):
        stream.send({1: numbered(1)})
        gate.wait_for_a_run()
        with pytest.raises(grpc.RpcError) as caught:
            stream.replies(2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls.code_of(1) in {"CANCELLED", "DEADLINE_EXCEEDED"}
        gate.opened.set()  # only now, because the server's deadline is later than the caller's


def test_cancelled_requests_are_not_run_and_not_answered(repository, gate, calls):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        stream.send({1: numbered(1)})
        gate.wait_for_a_run()
        stream.send({n: numbered(n) for n in (2, 3, 4)})
        stream.send(cancelled=[3, 1, 99])  # one waits, one runs, one is unknown
        assert calls.code_of(3) == calls.code_of(1) == "CANCELLED"
        gate.opened.set()
        replies = stream.rest()
        assert set(replies) == {2, 4}
    assert gate.begun == [1, 2, 4]


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize("how", ["cancel", "close the connection"])
def test_everything_is_freed_when_the_client_leaves(repository, gate, calls, how):
    with (
        server_in_threads(repository, max_queue_size=10) as server,
        channel_that_outlives(server) as channel,
        open_channel(server) as leaving,
    ):
        grpc.channel_ready_future(leaving).result(timeout=PATIENCE_S)
        with Stream(leaving) as stream:
            stream.send({n: numbered(n) for n in range(1, 6)})
            gate.wait_for_a_run()
            gate.wait_for_arrivals(5)
            if how == "cancel":
                stream.call.cancel()
            else:
                leaving.close()
            for number in range(1, 6):
                assert calls.code_of(number) == "CANCELLED"
        # the queue has its places again, and the slot is free when the thread is
        with Stream(channel) as again:
            again.send({n: numbered(n + 10) for n in range(1, 5)})
            gate.wait_for_arrivals(4)
            gate.opened.set()
            outcomes = {reply.WhichOneof("outcome") for reply in again.rest().values()}
        assert outcomes == {"response"}
    assert gate.begun[0] == 1
    assert set(gate.begun[1:]) == {11, 12, 13, 14}


def test_a_draining_server_answers_what_it_has_read_and_ends_with_ok(repository, gate):
    context = server_in_threads(repository, grace_s=PATIENCE_S)
    with open_channel(context.__enter__()) as channel, Stream(channel) as stream:
        stream.send({n: numbered(n) for n in range(1, 6)})
        gate.wait_for_a_run()
        gate.wait_for_arrivals(5)
        stopping = threading.Thread(target=context.__exit__, args=(None, None, None))
        stopping.start()
        gate.opened.set()
        replies = stream.replies(5)
        assert {reply.WhichOneof("outcome") for reply in replies.values()} == {"response"}
        assert list(stream.call) == []  # ended by the server; the caller has not half-closed
        assert stream.call.code() is grpc.StatusCode.OK
        stopping.join()


def test_a_stream_that_idles_does_not_hold_up_draining(repository):
    context = running_server(repository, threads=1, grace_s=PATIENCE_S)
    with open_channel(context.__enter__()) as channel, Stream(channel) as stream:
        stream.send({1: request()})
        assert stream.replies(1)
        context.__exit__(None, None, None)
        assert list(stream.call) == []
        assert stream.call.code() is grpc.StatusCode.OK


def test_streams_are_renewed_when_they_are_old(repository):
    limits = StreamLimits(max_age_s=0.0)
    with (
        running_server(repository, threads=1, stream_limits=limits) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        assert list(stream.call) == []
        assert stream.call.code() is grpc.StatusCode.OK


def test_the_log_has_a_line_for_each_request_and_one_for_the_stream(channel, calls):
    with Stream(channel) as stream:
        stream.send({1: request(request_id="good"), 2: request(request_id="bad", query=NAN)})
        stream.rest()
    good, bad = calls.line_of("good"), calls.line_of("bad")
    assert (good.code, good.model) == ("OK", "plain")
    assert (bad.code, bad.reason) == ("INVALID_ARGUMENT", "NON_FINITE")
    assert good.method == bad.method == "polyhead.v1.AttentionService/AttendStream"


# ---------------------------------------------------------------- floods


def test_a_client_that_reads_slowly_is_read_slowly(repository, monkeypatch):
    """What the server holds for it is bounded, and others are served."""
    taken, unsent_bytes = [], []
    accept, next_message = RequestStream.accept, SendBuffer.next_message

    async def counting(stream, message):
        taken.append(len(message))
        await accept(stream, message)

    def weighing(buffer):
        unsent_bytes.append(buffer.num_bytes)
        return next_message(buffer)

    monkeypatch.setattr(RequestStream, "accept", counting)
    monkeypatch.setattr(SendBuffer, "next_message", weighing)
    asked = request(query=to_tensor(embeddings(1, 100, WIDTH)), attn_weights={})
    num_messages, num_replies = 200, 0  # 320 MB of replies in all
    with (
        running_server(repository, threads=1) as server,
        channel_that_outlives(server) as channel,
        # its transport takes 64 KiB ahead of the reader, and does not adapt
        open_channel(server, **{"grpc.http2.bdp_probe": 0}) as slow,
        Stream(slow, timeout=60) as stream,
    ):
        for first in range(0, 10 * num_messages, 10):
            stream.send(dict.fromkeys(range(first, first + 10), asked))
        stream.half_close()
        for _ in range(40):  # a message, and time to go on if the server wanted to
            num_replies += len(pb.AttendStreamResponse.FromString(next(stream.call)).replies)
            assert attend(channel, request())
        # what was answered, what may be held, and a few messages on their way
        assert 10 * len(taken) <= num_replies + 1024 + 100
        for data in stream.call:
            num_replies += len(pb.AttendStreamResponse.FromString(data).replies)
        assert stream.call.code() is grpc.StatusCode.OK
    assert num_replies == 10 * num_messages
    # 64 MiB, and what is computed in one go
    assert max(unsent_bytes) <= 80 << 20


def test_health_is_answered_during_a_flood(repository):
    """One client sends small requests as fast as it can, until health was answered."""
    with (
        running_server(repository, threads=1) as server,
        channel_that_outlives(server) as channel,
        open_channel(server) as flooding,
    ):
        message = pb.AttendStreamRequest(
            requests=[pb.StreamedRequest(id=n, call=request()) for n in range(500)]
        ).SerializeToString()
        is_over, num_replies = threading.Event(), 0

        def endless():
            while not is_over.is_set():
                yield message

        attend_stream = flooding.stream_stream(SERVICE + "AttendStream")
        call_ = attend_stream(endless(), timeout=60)
        checks = threading.Thread(target=lambda: (_check_health(channel), is_over.set()))
        next(call_)
        checks.start()
        for data in call_:
            num_replies += len(pb.AttendStreamResponse.FromString(data).replies)
        checks.join()
        assert call_.code() is grpc.StatusCode.OK
        assert num_replies


def _check_health(channel):
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    for _ in range(20):
        assert health(b"", timeout=30) == b"\x08\x01"
