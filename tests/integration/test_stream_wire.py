"""AttendStream answers requests in odd encodings as Attend does, and refuses malformed ones.

No request changes what another gets.
"""

from __future__ import annotations

import random

import grpc
import hypothesis
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from odd_messages import Scribe, varint
from raw_calls import (
    WIDTH,
    call,
    channel_that_outlives,
    delimited,
    embeddings,
    read_refusal,
    request,
    tensor,
)
from run_gate import numbered, server_in_threads
from streams import Stream

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.running import running_server

bounded = hypothesis.settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


def attend(channel, message):
    """Return what Attend gives: an AttendResponse, or the RpcStatus of its refusal."""
    try:
        return pb.AttendResponse.FromString(call(channel, message.SerializeToString()))
    except grpc.RpcError as error:
        read_refusal(error)
        packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
        return errors_pb2.RpcStatus.FromString(packed)


def assert_same(reply, expected):
    """A reply is what Attend gave, but for how it was executed."""
    if isinstance(expected, errors_pb2.RpcStatus):
        assert reply.error == expected
        return
    assert reply.WhichOneof("outcome") == "response"
    assert reply.response.request_id == expected.request_id
    for name in ("output", "attn_weights"):
        assert reply.response.HasField(name) == expected.HasField(name)
        if expected.HasField(name):
            arrays = [to_array(getattr(each, name)) for each in (reply.response, expected)]
            np.testing.assert_allclose(*arrays, rtol=0, atol=1e-6)


def small(seed, **fields):
    return request(query=to_tensor(embeddings(1, 2, WIDTH, seed=seed)), **fields)


KINDS = [
    *(small(seed) for seed in range(6)),
    small(6, request_id="a"),
    small(7, request_id="b"),
    small(8, kv_lengths=[1]),
    small(9, attn_weights={}),
    small(10, model="no-bias"),
    request(model="missing", query=to_tensor(embeddings(1, 2, WIDTH))),
    request(query=to_tensor(np.full((1, 2, WIDTH), np.nan, np.float32))),
    request(query=tensor([1, 2, WIDTH], bytes(4 * 2 * WIDTH - 1))),
    pb.AttendRequest(),
]


@bounded
@hypothesis.given(
    kinds=st.lists(st.integers(0, 5) | st.integers(0, len(KINDS) - 1), min_size=1, max_size=12),
    first_id=st.sampled_from([0, 1, 120, 2**62, 2**63 - 3, 2**64 - 12]),
    timeouts=st.lists(st.sampled_from([0, 60_000_000, 2**62, 2**63 - 1]), min_size=12, max_size=12),
    seed=seeds,
    is_odd=st.booleans(),
)
def test_requests_in_any_encoding_are_answered_as_by_attend(
    channel, kinds, first_id, timeouts, seed, is_odd
):
    requests = [
        pb.StreamedRequest(id=first_id + n, timeout_us=timeout, call=KINDS[kind])
        for n, (kind, timeout) in enumerate(zip(kinds, timeouts, strict=False))
    ]
    message = pb.AttendStreamRequest(requests=requests)
    rng = random.Random(seed)
    with Stream(channel) as stream:
        stream.send_bytes(Scribe(rng).write(message) if is_odd else message.SerializeToString())
        replies = stream.rest()
    assert replies.keys() == {each.id for each in requests}
    for each in requests:
        assert_same(replies[each.id], attend(channel, each.call))


def framed(number, data, timeout_us=b""):
    """Write a message with one request; number and timeout_us are varints as they are given."""
    timeout = b"\x10" + timeout_us if timeout_us else b""
    return delimited(1, b"\x08" + number + timeout + delimited(3, data))


@pytest.mark.parametrize(
    "odd",
    [
        framed(b"\x00", small(0).SerializeToString()),  # 0, which protobuf does not write
        framed(b"\x85\x00", small(0).SerializeToString()),
        framed(b"\x85\x80\x80\x80\x80\x80\x80\x80\x80\x00", small(0).SerializeToString()),
        framed(b"\x85" + b"\x80" * 8 + b"\x02", small(0).SerializeToString()),  # over 64 bits
        framed(b"\x05", small(0).SerializeToString(), timeout_us=b"\x00"),
        framed(b"\x05", small(0).SerializeToString(), timeout_us=b"\x80" * 9 + b"\x02"),
        framed(b"\x05", small(0).SerializeToString(), timeout_us=b"\xff" * 9 + b"\x00"),
    ],
    ids=["zero", "padded", "ten bytes", "over 64 bits", "no timeout", "over", "padded timeout"],
)
def test_numbers_in_odd_encodings_are_read_as_protobuf_reads_them(channel, odd):
    """Where the request is the first of its template, where others follow, and once it is known."""
    [parsed] = pb.AttendStreamRequest.FromString(odd).requests
    start = odd.index(b"\x08") + 1
    size = next(n for n, byte in enumerate(odd[start:], 1) if byte < 0x80)
    others = {}
    for n in range(3):  # of the same size
        number = varint(2**63 + n) if size == 10 else varint(100 + n, size - 1)
        other = odd[:start] + number + odd[start + size :]
        [read] = pb.AttendStreamRequest.FromString(other).requests
        others[read.id] = other
    for messages in ([odd, *others.values()], [*others.values(), odd], [odd]):
        with Stream(channel) as stream:
            stream.send_bytes(b"".join(messages))
            replies = stream.rest()
        assert parsed.id in replies
        assert len(replies) == len(messages)
        for reply in replies.values():
            assert_same(reply, attend(channel, small(0)))


def test_an_id_is_the_same_however_it_is_encoded(repository, gate, calls):
    """Two requests may not have it at once, and it cancels the request."""
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        stream.send_bytes(framed(b"\x85\x00", numbered(1).SerializeToString()))
        gate.wait_for_a_run()
        stream.send_bytes(framed(b"\x05", numbered(2).SerializeToString()))
        [duplicate] = stream.replies(1).values()
        assert (duplicate.id, duplicate.WhichOneof("outcome")) == (5, "error")
        assert "got 5" in duplicate.error.message
        stream.send_bytes(b"\x10\x85\x80\x00")  # cancels it
        assert calls.code_of(1) == "CANCELLED"
        stream.send({6: numbered(3)})
        stream.half_close()
        gate.opened.set()
        assert stream.rest().keys() == {6}


MALFORMED_CALLS = [b"\xff", small(0).SerializeToString()[:-1], b"\x0a\x02\xff\xfe", b"\x1a\x01\xff"]


@pytest.mark.parametrize("bad", MALFORMED_CALLS)
def test_a_malformed_call_fails_alone_and_the_stream_goes_on(channel, bad):
    good = small(0).SerializeToString()
    for _ in range(2):  # the second time the templates of the good ones are known
        with Stream(channel) as stream:
            stream.send_bytes(framed(b"\x01", good) + framed(b"\x02", bad) + framed(b"\x03", good))
            first = stream.replies(3)
            stream.send_bytes(framed(b"\x02", good) + framed(b"\x04", bad))
            second = stream.rest()
        for reply in (first[1], first[3], second[2]):
            assert_same(reply, attend(channel, small(0)))
        for reply in (first[2], second[4]):
            assert reply.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert (
                "expected a serialized polyhead.v1.AttendRequest, whose strings are UTF-8;"
                in reply.error.message
            )


def test_an_id_that_is_no_text_fails_alone_where_its_template_is_known(channel):
    good = small(0, request_id="ab").SerializeToString()
    bad = good.replace(b"ab", b"\xff\xfe")
    with Stream(channel) as stream:
        stream.send_bytes(framed(b"\x01", good) + framed(b"\x02", bad) + framed(b"\x03", good))
        replies = stream.rest()
    assert replies[2].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    for number in (1, 3):
        assert replies[number].response.request_id == "ab"


def test_requests_with_equal_headers_and_other_contents_are_each_answered(channel):
    """Frames of one size are found without reading each; what is in them may be anything."""
    good = framed(b"\x01", small(0).SerializeToString())
    head = good[: good.index(b"\x08")]
    others = {
        2: framed(b"\x02", small(1).SerializeToString()),
        3: framed(b"\x03", small(0).SerializeToString().replace(b"plain", b"Plain")),
        4: framed(b"\x04", small(2).SerializeToString()),
        # another order of the same fields
        5: head + delimited(3, small(3).SerializeToString()) + b"\x08\x05",
        # no call, but as many bytes of an unknown field
        6: head + b"\x08\x06" + delimited(7, small(4).SerializeToString()),
        7: framed(b"\x07", small(5).SerializeToString()),
    }
    assert {len(each) for each in others.values()} == {len(good)}
    for _ in range(2):
        with Stream(channel) as stream:
            stream.send_bytes(good + b"".join(others.values()))
            replies = stream.rest()
        for number, message in {1: good, **others}.items():
            [parsed] = pb.AttendStreamRequest.FromString(message).requests
            assert_same(replies[number], attend(channel, parsed.call))


def test_a_request_that_is_malformed_itself_ends_the_stream_when_others_are_answered(channel):
    good = framed(b"\x01", small(0).SerializeToString())
    with Stream(channel) as stream:
        stream.send_bytes(good + b"\x0a\x02\x08\xff")  # has no id that can be read
        assert stream.replies(1).keys() == {1}
        with pytest.raises(grpc.RpcError) as caught:
            next(stream.call)
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "MALFORMED")


def test_fields_of_a_newer_client_are_ignored(channel):
    """Groups, too, though they hold what looks like fields of the message."""
    good = small(0).SerializeToString()
    for unknown in (b"\xf8\x01\x07", b"\xfa\x01\x02ab", b"\xfb\x01\x08\x09\x0a\x00\xfc\x01"):
        request = b"\x08\x05" + unknown + delimited(3, good + unknown)
        for _ in range(2):
            with Stream(channel) as stream:
                stream.send_bytes(unknown + delimited(1, request) + unknown)
                replies = stream.rest()
            assert replies.keys() == {5}
            assert_same(replies[5], attend(channel, small(0)))


@pytest.mark.parametrize("is_known", [False, True])
def test_a_request_of_exactly_the_largest_size_is_served(repository, is_known):
    """It is the call that counts, as with Attend; and the padding of its frame does not."""
    with (
        running_server(repository, threads=1, max_request_bytes=4096) as server,
        channel_that_outlives(server) as channel,
        Stream(channel) as stream,
    ):
        room = 4096 - request(query=to_tensor(embeddings(1, 60, WIDTH))).ByteSize()
        lengths = {n: request(query=to_tensor(embeddings(1, 60, WIDTH))) for n in (1, 2)}
        for number, extra in ((1, 0), (2, 1)):
            lengths[number].request_id = "x" * (room - 3 + extra)
        assert [each.ByteSize() for each in lengths.values()] == [4096, 4097]
        for _ in range(1 + is_known):
            stream.send(lengths)
            replies = stream.replies(2)
        assert_same(replies[1], attend(channel, lengths[1]))
        assert replies[2].error == attend(channel, lengths[2])
        assert "4097 bytes" in replies[2].error.message


ANCESTOR = pb.AttendStreamRequest(
    requests=[pb.StreamedRequest(id=n, timeout_us=60_000_000, call=small(n)) for n in (5, 6, 7)]
).SerializeToString()


@bounded
@hypothesis.given(
    mutations=st.lists(
        st.tuples(
            st.sampled_from(["flip", "insert", "delete", "exchange"]),
            st.integers(0, len(ANCESTOR) - 1) | st.integers(0, 40),
            st.integers(0, 2),
            st.integers(1, 255),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_each_request_of_a_mutated_message_gets_one_reply(channel, mutations):
    """Where protobuf reads the message; and where it does not, the stream ends with MALFORMED."""
    data = bytearray(ANCESTOR)
    size = len(ANCESTOR) // 3
    for kind, place, frame, byte in mutations:
        # half of them at the beginning of a request, because the elements are most of it
        at = min(frame * size + place if place < 40 else place, len(data) - 1)
        match kind:
            case "flip":
                data[at] ^= byte
            case "insert":
                data.insert(at, byte)
            case "delete":
                del data[at]
            case "exchange":
                other = byte % len(data)
                data[at], data[other] = data[other], data[at]
    data = bytes(data)
    replies, refusal = [], None
    with Stream(channel) as stream:
        stream.send_bytes(ANCESTOR)
        stream.replies(3)
        stream.send_bytes(data)
        stream.half_close()
        try:
            for message in stream.call:
                replies += pb.AttendStreamResponse.FromString(message).replies
        except grpc.RpcError as error:
            refusal = read_refusal(error)
    internal = grpc.StatusCode.INTERNAL.value[0]
    assert all(reply.error.code != internal for reply in replies)
    try:
        requests = pb.AttendStreamRequest.FromString(data).requests
    except DecodeError:
        assert refusal is None or refusal.reason == "MALFORMED"
    else:
        assert refusal is None
        assert sorted(reply.id for reply in replies) == sorted(each.id for each in requests)
