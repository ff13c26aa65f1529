"""A stream's messages, against what protobuf writes and reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyhead import ServerError
from polyhead._calls.request import prepare_call
from polyhead._stream.messages import ERROR, RESPONSE, PendingRequest, cancelled_ids, read_replies
from polyhead._stream.pending_requests import PendingRequests
from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import to_tensor

QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
ids = st.integers(0, 2**64 - 1)
replies = st.builds(
    pb.StreamedReply, id=ids, response=st.builds(pb.AttendResponse, request_id=st.text())
) | st.builds(pb.StreamedReply, id=ids, error=st.builds(errors_pb2.RpcStatus, message=st.text()))
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


def test_a_request_is_renewed_with_the_time_that_is_left():
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


def number_of(call_id):
    return pb.StreamedReply.FromString(b"\x08" + call_id).id


def read(raw):
    """Read replies by hand, and make protobuf's of them."""
    made = []
    for replies in read_replies(raw):
        parts = replies.records.column(replies.span)
        assert replies.first() == parts[0]
        for call_id, part in zip(replies.ids, parts, strict=True):
            reply = pb.StreamedReply(id=number_of(call_id))
            if replies.outcome == RESPONSE:
                reply.response.ParseFromString(part)
            elif replies.outcome == ERROR:
                reply.error.ParseFromString(part)
            made.append(reply)
    return made


@given(outcomes)
def test_replies_are_read_as_protobuf_reads_them(expected):
    assert read(pb.AttendStreamResponse(replies=expected).SerializeToString()) == expected


@given(outcomes.filter(bool), st.data())
def test_replies_written_in_other_ways(expected, data):
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
    raw = b"\x7a\x01?".join(pieces)
    assert read(raw) == list(without_unknown(pb.AttendStreamResponse.FromString(raw)).replies)


def without_unknown(message):
    message.DiscardUnknownFields()
    return message


@given(outcomes, st.data())
def test_a_message_cut_short_is_refused_or_read_as_protobuf_does(expected, data):
    raw = pb.AttendStreamResponse(replies=expected).SerializeToString()
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    if len(cut) < len(raw) and not is_whole(cut):
        with pytest.raises(ServerError, match="could not be read"):
            read_replies(cut)
    else:
        assert read(cut) == list(pb.AttendStreamResponse.FromString(cut).replies)


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


def test_a_garbled_error_is_one_requests_failure():
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


def test_of_replies_that_came_together_those_to_nobody_are_dropped():
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


def test_a_reply_to_nobody_is_dropped():
    pending = PendingRequests("host:1")
    call = Kept(1, prepare_call(QUERY, model="m"), 60.0)
    pending.add(call)
    pending.take_message()
    pending.abandon(call)
    pending.dispatch(b"\x0a\x04\x08\x01\x12\x00" + b"\x0a\x04\x08\x09\x12\x00")
    assert not hasattr(call, "outcome")
    assert list(pb.AttendStreamRequest.FromString(pending.take_message()).cancelled_ids) == [1]
    assert pending.take_message() == b""


def test_messages_that_are_none_are_the_servers_fault():
    with pytest.raises(ServerError, match="could not be read"):
        PendingRequests("host:1").dispatch(b"\x0a\x05")


def test_forgotten_requests_do_not_pile_up_where_the_server_does_not_read():
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
    assert written.num_awaited == 2
