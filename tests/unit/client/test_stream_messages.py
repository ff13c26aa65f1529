"""A stream's messages, against what protobuf writes and reads."""

from __future__ import annotations

import random
from contextlib import suppress

import grpc
import numpy as np
import pytest
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st
from odd_messages import Scribe, is_payload, payloads_of

from polyhead import ResourceExhaustedError, ServerError
from polyhead._calls.request import prepare_call
from polyhead._calls.response_format import ERROR, STREAMED
from polyhead._stream.messages import PendingRequest, cancelled_ids, read_replies
from polyhead._stream.pending_requests import PendingRequests
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import TensorError, TensorLayout, to_tensor

EXECUTION_FIELD = pb.AttendResponse.EXECUTION_FIELD_NUMBER
QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
seeds = st.integers(0, 2**32 - 1)
ids = st.integers(0, 2**64 - 1) | st.integers(1, 200)
tensors = st.builds(
    lambda shape, rest: pb.Tensor(dtype=7, shape=shape, data=bytes(int(np.prod(shape))) + rest),
    st.lists(st.integers(1, 2), min_size=1, max_size=2),
    st.sampled_from([b""] * 6 + [b"?"]),  # too many bytes: no array
)
responses = st.builds(
    pb.AttendResponse,
    request_id=st.text(max_size=5),
    output=st.none() | tensors,
    top_keys=st.none() | tensors,
    execution=st.none() | st.builds(pb.Execution, queue_ms=st.floats(0, 9)),
)
errors = st.builds(errors_pb2.RpcStatus, message=st.text(max_size=5))
replies = st.builds(pb.StreamedReply, id=ids, response=responses) | st.builds(
    pb.StreamedReply, id=ids, error=errors
)
outcomes = st.lists(replies | st.builds(pb.StreamedReply, id=ids), max_size=5)


@given(ids, st.floats(1e-9, 1e7), st.text(max_size=200).filter(bool))
def test_a_frame_is_a_message_of_one_request(call_id, timeout_s, model):
    call = prepare_call(QUERY, model=model, kv_lengths=[3, 1])
    [request] = pb.AttendStreamRequest.FromString(
        PendingRequest(call_id, call, timeout_s).frame
    ).requests
    assert request.id == call_id
    assert request.timeout_us == max(1, int(timeout_s * 1e6))
    assert request.call == pb.AttendRequest.FromString(call.message())


def test_frames_join_to_a_message():
    calls = [prepare_call(QUERY, model=model) for model in "abc"]
    frames = [PendingRequest(n, call, 1.0).frame for n, call in enumerate(calls)]
    cancelled = cancelled_ids([varint(number) for number in (7, 300, 2**64 - 1)])
    message = b"".join([*frames, cancelled])
    parsed = pb.AttendStreamRequest.FromString(message)
    assert [request.call.model for request in parsed.requests] == ["a", "b", "c"]
    assert list(parsed.cancelled_ids) == [7, 300, 2**64 - 1]


def test_a_request_is_resent_with_the_time_that_is_left():
    call = PendingRequest(7, prepare_call(QUERY, model="m"), 60.0)
    [before] = pb.AttendStreamRequest.FromString(call.frame).requests
    call.is_written = True
    for left_s in (3.0, -1.0):
        call.deadline -= 60.0 - left_s if left_s > 0 else 4.0
        call.reset_for_resend()
        [after] = pb.AttendStreamRequest.FromString(call.frame).requests
        assert (after.id, after.call) == (7, before.call)
        assert 0 < after.timeout_us <= max(1, left_s * 1e6)
        assert not call.is_written


def assert_read_as_by_protobuf(raw):
    """Compare the replies that are found with those that protobuf reads."""
    expected = list(pb.AttendStreamResponse.FromString(raw).replies)
    for group in read_replies(raw):
        replies, expected = expected[: len(group.ids)], expected[len(group.ids) :]
        for index, (stream_id, reply) in enumerate(zip(group.ids, replies, strict=True)):
            assert stream_id in ([varint(reply.id)] if reply.id else [b"", b"\0"])
            if reply.WhichOneof("outcome") == "error":
                status = errors_pb2.RpcStatus.FromString(group.error)
                assert without_unknown(status) == without_unknown(reply.error)
                continue
            if isinstance(group.error, ServerError):
                assert any(is_no_array(tensor) for tensor in tensors_of(reply.response).values())
                continue
            assert group.error is None
            part = group.match.part(index, 1)
            assert_is_response(part, reply)
    assert not expected


def assert_is_response(match, reply):
    """Compare the match of one reply with what protobuf reads."""
    _, values = payloads_of(pb.AttendStreamResponse(replies=[reply]), STREAMED.payloads)
    for index in range(ERROR):
        assert is_payload(match.payload(index), values.get(index))
    if reply.HasField("response"):
        tensors = tensors_of(reply.response)
        assert match.value == {name: TensorLayout.of(each) for name, each in tensors.items()}
    else:
        assert match.value is None


def tensors_of(response):
    names = ("output", "attn_weights", "top_keys")
    return {name: getattr(response, name) for name in names if response.HasField(name)}


def is_no_array(tensor):
    try:
        TensorLayout.of(tensor).check_size(len(tensor.data))
    except TensorError:
        return True
    return False


@given(outcomes)
def test_replies_are_read_as_protobuf_reads_them(expected):
    assert_read_as_by_protobuf(pb.AttendStreamResponse(replies=expected).SerializeToString())


@given(outcomes, seeds)
def test_replies_in_odd_encodings_are_read_as_protobuf_reads_them(expected, seed):
    message = pb.AttendStreamResponse(replies=expected)
    assert_read_as_by_protobuf(Scribe(random.Random(seed)).write(message))


@given(outcomes.filter(bool), st.data())
def test_replies_with_fields_that_come_twice_are_read_as_protobuf_reads_them(expected, data):
    pieces = []
    for reply in expected:
        fields = [b"\x08\x05", reply.SerializeToString(), b"\xf8\x01\x07"]  # twice; unknown
        if data.draw(st.booleans()):
            fields.append(pb.StreamedReply(error=errors_pb2.RpcStatus(code=3)).SerializeToString())
        joined = b"".join(fields)
        size = len(joined)
        pieces.append(
            b"\x0a" + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14)) + joined
        )
    assert_read_as_by_protobuf(b"\x7a\x01?".join(pieces))


@pytest.mark.parametrize(
    "order", [("response", "error"), ("error", "response"), ("response", "error", "response")]
)
def test_of_a_response_and_an_error_the_last_one_counts(order):
    written = {
        "response": pb.StreamedReply(
            response=pb.AttendResponse(request_id="r", output=to_tensor(QUERY))
        ),
        "error": pb.StreamedReply(error=errors_pb2.RpcStatus(code=3, message="no")),
    }
    reply = b"\x08\x05" + b"".join(written[each].SerializeToString() for each in order)
    raw = b"\x0a" + varint(len(reply)) + reply
    assert_read_as_by_protobuf(raw + raw)
    for group in read_replies(raw + raw):
        assert (group.error is not None) == (order[-1] == "error")


def without_unknown(message):
    message.DiscardUnknownFields()
    return message


@pytest.mark.parametrize(
    "unknown",
    [
        b"\xf8\x01\x07",  # a varint
        b"\xfa\x01\x02ab",  # bytes
        b"\xfb\x01\x08\x09\xfc\x01",  # a group, with what looks like an id
        b"\xfb\x01\x0a\x04\x08\x09\x12\x00\xfc\x01",  # a group, with what looks like a reply
    ],
    ids=["varint", "bytes", "group", "group with a reply"],
)
@pytest.mark.parametrize("place", ["message", "reply", "response", "tensor", "execution"])
def test_fields_of_a_newer_server_are_ignored(unknown, place):
    def framed(number, content):
        return tag_of(number) + varint(len(content)) + content

    def tag_of(number):
        return bytes((number << 3 | 2,))

    def add(name, content):
        return content + unknown if place == name else content

    pending = PendingRequests("host:1")
    kept = [Kept(n, prepare_call(QUERY, model="m"), 60.0) for n in (1, 2, 3)]
    for request in kept:
        pending.add(request)
    pending.take_message()
    message = b""
    for n in (1, 2, 3):
        tensor = add("tensor", to_tensor(QUERY + n).SerializeToString())
        execution = add("execution", pb.Execution(model="m", batch_size=n).SerializeToString())
        response = add("response", framed(2, tensor) + framed(EXECUTION_FIELD, execution))
        reply = add("reply", b"\x08" + varint(n) + framed(2, response))
        message += add("message", framed(1, reply))
    assert pb.AttendStreamResponse.FromString(message).replies[2].response.HasField("execution")
    assert_read_as_by_protobuf(message)
    for _ in range(2):
        assert [group.ids for group in read_replies(message)]
    pending.dispatch(message)
    for n, request in enumerate(kept, 1):
        np.testing.assert_array_equal(request.outcome.output, QUERY + n)
        assert request.outcome.execution.batch_size == n


@given(
    outcomes.filter(bool),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_mutated_replies_are_read_as_protobuf_reads_them(expected, mutations):
    raw = pb.AttendStreamResponse(replies=expected).SerializeToString()
    list(read_replies(raw))  # their templates are known
    mutated = bytearray(raw)
    for at, flip in mutations:
        if flip:
            mutated[at % len(mutated)] ^= flip
        else:
            mutated.insert(at % len(mutated), at)
    mutated = bytes(mutated)
    if is_whole(mutated):
        assert_read_as_by_protobuf(mutated)
    else:  # some of the replies may be good
        with suppress(ServerError):
            list(read_replies(mutated))


@given(outcomes, st.data())
def test_a_truncated_message_is_refused_or_read_as_protobuf_does(expected, data):
    raw = pb.AttendStreamResponse(replies=expected).SerializeToString()
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    if len(cut) < len(raw) and not is_whole(cut):
        with pytest.raises(ServerError, match="could not be read"):
            list(read_replies(cut))
    else:
        assert_read_as_by_protobuf(cut)


def is_whole(raw):
    try:
        pb.AttendStreamResponse.FromString(raw)
    except Exception:  # noqa: BLE001 - whatever protobuf raises
        return False
    return True


class Kept(PendingRequest):
    """A request that keeps its outcome."""

    __slots__ = ("outcome",)

    def resolve(self, outcome):
        self.outcome = outcome


def test_an_error_that_cannot_be_read_is_the_failure_of_one_request():
    pending = PendingRequests("host:1")
    garbled, good = (Kept(n, prepare_call(QUERY, model="m"), 60.0) for n in (1, 2))
    for call in (garbled, good):
        pending.add(call)
    pending.take_message()
    response = pb.AttendResponse(output=to_tensor(QUERY))
    replied = pb.AttendStreamResponse(replies=[pb.StreamedReply(id=2, response=response)])
    pending.dispatch(b"\x0a\x07\x08\x01\x1a\x03\x12\x01\xff" + replied.SerializeToString())
    assert isinstance(garbled.outcome, ServerError)
    np.testing.assert_array_equal(good.outcome.output, QUERY)
    assert not pending.unanswered
    assert garbled.frame == good.frame == b""


def test_replies_to_abandoned_requests_are_dropped_from_a_group():
    pending = PendingRequests("host:1")
    prepared = prepare_call(QUERY, model="m")
    other = prepare_call(QUERY + 1, model="m", need_weights=True)
    kept = [Kept(n, other if n == 5 else prepared, 60.0) for n in range(1, 9)]
    for call in kept:
        pending.add(call)
    pending.take_message()
    for n in (3, 4, 8):
        pending.abandon(kept[n - 1])
    replies = [
        pb.StreamedReply(id=n, response=pb.AttendResponse(output=to_tensor(QUERY + n)))
        for n in range(1, 10)
    ]
    pending.dispatch(pb.AttendStreamResponse(replies=replies).SerializeToString())
    for n in (1, 2, 6, 7):
        np.testing.assert_array_equal(kept[n - 1].outcome.output, QUERY + n)
    with pytest.raises(ServerError, match="lacks attn_weights"):
        raise kept[4].outcome
    assert not any(hasattr(kept[n - 1], "outcome") for n in (3, 4, 8))


def test_a_reply_to_an_abandoned_or_unknown_request_is_dropped():
    pending = PendingRequests("host:1")
    call = Kept(1, prepare_call(QUERY, model="m"), 60.0)
    pending.add(call)
    pending.take_message()
    pending.abandon(call)
    pending.dispatch(b"\x0a\x04\x08\x01\x12\x00" + b"\x0a\x04\x08\x09\x12\x00")
    assert not hasattr(call, "outcome")
    assert list(pb.AttendStreamRequest.FromString(pending.take_message()).cancelled_ids) == [1]
    assert pending.take_message() == b""


def test_bytes_that_are_no_message_are_a_server_error():
    with pytest.raises(ServerError, match="could not be read"):
        PendingRequests("host:1").dispatch(b"\x0a\x05")


@pytest.mark.parametrize("figures", [{}, {"expected": "many"}, {"expected": "9" * 5000}])
def test_a_stream_that_a_server_ends_with_other_figures_than_ours_fails_its_requests(figures):
    info = errors_pb2.ErrorInfo(reason="REQUEST_TOO_LARGE", metadata=figures)
    status = errors_pb2.RpcStatus(code=8)
    packed = status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo")
    packed.value = info.SerializeToString()
    trailing = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    error = AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, Metadata(), trailing, details="")
    pending = PendingRequests("host:1")
    call = Kept(1, prepare_call(QUERY, model="m"), 60.0)
    pending.add(call)
    pending.take_message()
    assert pending.end(error) == 0.0
    assert isinstance(call.outcome, ResourceExhaustedError)


def test_abandoned_requests_do_not_accumulate_where_the_server_does_not_read():
    pending = PendingRequests("localhost:1")
    call = prepare_call(QUERY, model="m")
    kept = [PendingRequest(1, call, 1.0), PendingRequest(5000, call, 1.0)]
    pending.add(kept[0])
    for n in range(2, 5000):
        timed_out = PendingRequest(n, call, 1.0)
        pending.add(timed_out)
        pending.abandon(timed_out)
        assert len(pending._unwritten) < 100
    pending.add(kept[1])
    written = pb.AttendStreamRequest.FromString(pending.take_message())
    assert [request.id for request in written.requests] == [1, 5000]
    assert not written.cancelled_ids


# ---------------------------------------------------------------- the first message is cut


def fill(pending, count, size, first=1):
    """Add requests whose frames are a little larger than ``size``."""
    query = np.zeros((1, 1, size // 4), np.float32)
    requests = [Kept(first + n, prepare_call(query, model="m"), 60.0) for n in range(count)]
    for request in requests:
        pending.add(request)
    return requests


def written(pending):
    """Take all messages that there are to write: the ids in each."""
    messages = iter(pending.take_message, b"")
    return [
        [request.id for request in pb.AttendStreamRequest.FromString(message).requests]
        for message in messages
    ]


def answer(pending, numbers):
    replies = [pb.StreamedReply(id=n, error=errors_pb2.RpcStatus(code=3)) for n in numbers]
    pending.dispatch(pb.AttendStreamResponse(replies=replies).SerializeToString())


def test_one_request_is_never_cut():
    pending = PendingRequests("host:1")
    fill(pending, 1, 1 << 20)
    assert written(pending) == [[1]]


@pytest.mark.parametrize("count", [2, 3, 16, 17])
def test_a_large_first_message_is_cut_once(count):
    """So that server and client work at the same time."""
    pending = PendingRequests("host:1")
    fill(pending, count, 16 << 10)
    half = -(-count // 2)
    assert written(pending) == [[*range(1, half + 1)], [*range(half + 1, count + 1)]]


def test_a_message_is_not_cut_while_half_is_awaited():
    pending = PendingRequests("host:1")
    fill(pending, 8, 4 << 10)
    assert [len(ids) for ids in written(pending)] == [4, 4]
    answer(pending, range(1, 5))
    fill(pending, 8, 4 << 10, first=9)  # 4 are awaited: half as many
    assert written(pending) == [[*range(9, 17)]]
    answer(pending, range(5, 15))  # 2 are awaited
    fill(pending, 8, 4 << 10, first=17)
    assert written(pending) == [[*range(17, 21)], [*range(21, 25)]]


def test_small_messages_are_not_cut():
    pending = PendingRequests("host:1")
    fill(pending, 16, 400)
    assert written(pending) == [[*range(1, 17)]]
