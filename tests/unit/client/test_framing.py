"""What is written by hand, protobuf reads; what protobuf writes in any way, is read by hand."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import UnusualError, canonical, fields, header, lift, tag, varint
from polyhead.wire.tensors import tensor_head

REQUEST = {  # as the server takes a request apart: tensors' elements, and what differs each time
    tag(number): {tag(pb.Tensor.DATA_FIELD_NUMBER): place}
    for place, number in enumerate((4, 5, 6, 7, 11, 12))
} | {tag(3): 6}
RESPONSE = {
    tag(pb.AttendResponse.OUTPUT_FIELD_NUMBER): {tag(3): 0},
    tag(pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER): {tag(3): 1},
    tag(pb.AttendResponse.TOP_KEYS_FIELD_NUMBER): {tag(3): 2},
    tag(pb.AttendResponse.REQUEST_ID_FIELD_NUMBER): 3,
    tag(pb.AttendResponse.EXECUTION_FIELD_NUMBER): 4,
}
TENSORS = ("query", "key", "value", "attn_mask", "positions", "key_positions")

int64 = st.integers(-(2**63), 2**63 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
tensors = st.builds(
    pb.Tensor,
    dtype=st.integers(0, 20),
    shape=st.lists(int64, max_size=4),
    data=st.binary(max_size=300),
)
some_tensors = st.none() | tensors
requests = st.builds(
    pb.AttendRequest,
    model=st.text(max_size=5),
    model_version=int64,
    request_id=st.text(max_size=150),
    **dict.fromkeys(TENSORS, some_tensors),
    kv_lengths=st.lists(int64, max_size=3),
    attn_weights=st.none() | st.builds(pb.AttnWeightsSelection, heads=st.lists(int32, max_size=3)),
    output_dtype=st.integers(0, 20),
    omit_output=st.booleans(),
)
executions = st.builds(
    pb.Execution,
    model=st.text(max_size=5),
    model_version=int64,
    queue_ms=st.floats(allow_nan=False),
    batch_size=int32,
)
responses = st.builds(
    pb.AttendResponse,
    request_id=st.text(max_size=150),
    output=some_tensors,
    attn_weights=some_tensors,
    top_keys=some_tensors,
    execution=st.none() | executions,
)


def overlong(value, extra):
    """Write a varint in more bytes than it needs."""
    digits = bytearray(varint(value))
    digits[-1] |= 0x80
    return bytes(digits) + b"\x80" * (extra - 1) + b"\0"


UNKNOWN = [
    b"\xf8\x01\x07",  # field 31, a varint
    b"\x7a\x03abc",  # field 15, bytes
    b"\x7d1234",  # field 15, 32 bits
    b"\x7912345678",  # field 15, 64 bits
    b"\x73\x08\x01\x74",  # field 14, a group
    b"\xfa\xff\x7f\x01?",  # a large field number
]


def written(draw, message):
    """Write a message in one of the ways that protobuf allows, and that no library chooses."""
    pieces = []
    for field, value in message.ListFields():
        number, kind = field.number, field.type
        if kind == field.TYPE_MESSAGE:
            parts = [written(draw, value)]
            if draw(st.booleans()):  # a singular message in two parts, which are joined
                parts = [written(draw, part) for part in halves(draw, value)]
            contents = [(2, part) for part in parts]
        elif kind in (field.TYPE_BYTES, field.TYPE_STRING):
            data = value.encode() if isinstance(value, str) else value
            contents = [(2, data)]
            if draw(st.booleans()):  # a singular field that comes twice: the last counts
                contents.insert(0, (2, b"before"))
        elif kind == field.TYPE_DOUBLE:
            contents = [(1, np.float64(value).tobytes())]
        else:
            values = list(value) if field.is_repeated else [value]
            numbers = [varint(int(one) % 2**64) for one in values]
            if field.is_repeated and draw(st.booleans()):
                contents = [(2, b"".join(numbers))]
            else:
                contents = [(0, digits) for digits in numbers]
        pieces.append([framed(draw, number, wire, data) for wire, data in contents])
    pieces += [[draw(st.sampled_from(UNKNOWN))] for _ in range(draw(st.integers(0, 2)))]
    order = draw(st.permutations(pieces))
    return b"".join(part for piece in order for part in piece)


def halves(draw, message):
    first, second = type(message)(), type(message)()
    for field, value in message.ListFields():
        half = first if draw(st.booleans()) else second
        if field.is_repeated:
            getattr(half, field.name).extend(value)
        else:
            setattr(half, field.name, value)
    return [first, second]


def framed(draw, number, wire, data):
    start = bytes((number << 3 | wire,))
    if draw(st.integers(0, 9)) == 0:
        start = overlong(start[0], draw(st.integers(1, 3)))
    if wire == 2:
        size = varint(len(data))
        if draw(st.integers(0, 4)) == 0:
            size = overlong(len(data), draw(st.integers(1, 3)))
        return start + size + data
    return start + data


def read(message_type, data, payloads, count):
    """Read a message as client and server do: payloads taken out, or canonical first."""
    try:
        left, spans = lift(data, 0, len(data), payloads, count)
    except UnusualError:
        data = canonical(message_type, data)
        left, spans = lift(data, 0, len(data), payloads, count)
    return message_type.FromString(left), [data[start:end] for start, end in spans]


def check(message, data, payloads):
    """Compare what is read by hand with what protobuf reads, unknown fields aside."""
    message.DiscardUnknownFields()
    count = len(payloads)
    left, values = read(type(message), data, payloads, count)
    expected = type(message)()
    expected.CopyFrom(message)
    names = {field.number: field.name for field in message.DESCRIPTOR.fields}
    for field_tag, place in payloads.items():
        name = names[field_tag >> 3]
        if isinstance(place, dict):
            [nested] = place.values()
            assert values[nested] == getattr(message, name).data
            if message.HasField(name):
                getattr(expected, name).ClearField("data")
        else:
            value = getattr(message, name)
            if isinstance(value, pb.Execution):
                execution = pb.Execution.FromString(values[place])
                execution.DiscardUnknownFields()
                assert execution == value
            else:
                assert values[place].decode() == value
            expected.ClearField(name)
    left.DiscardUnknownFields()
    assert left == expected


@given(requests)
def test_requests_are_taken_apart_as_protobuf_reads_them(request):
    check(request, request.SerializeToString(), REQUEST)


@given(responses)
def test_responses_are_taken_apart_as_protobuf_reads_them(response):
    check(response, response.SerializeToString(), RESPONSE)


@given(st.data(), requests)
def test_requests_written_in_any_way(data, request):
    raw = written(data.draw, request)
    check(pb.AttendRequest.FromString(raw), raw, REQUEST)


@given(st.data(), responses)
def test_responses_written_in_any_way(data, response):
    raw = written(data.draw, response)
    check(pb.AttendResponse.FromString(raw), raw, RESPONSE)


@given(responses, st.data())
def test_a_message_cut_short_is_refused_or_read_as_protobuf_does(response, data):
    raw = response.SerializeToString()
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        message = pb.AttendResponse.FromString(cut)
    except DecodeError:
        with pytest.raises(DecodeError):
            read(pb.AttendResponse, cut, RESPONSE, 5)
    else:
        check(message, cut, RESPONSE)


def read_payloads(raw):
    _, values = read(pb.AttendResponse, raw, RESPONSE, 5)
    return values[3].decode(), pb.Execution.FromString(values[4])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_read_as_protobuf_does(raw):
    try:
        message = pb.AttendResponse.FromString(raw)
    except DecodeError:
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            read_payloads(raw)
    else:
        check(message, raw, RESPONSE)


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_written_as_protobuf_does(value):
    data = b"\x08" + varint(value)
    assert pb.StreamedRequest.FromString(data).id == value
    assert fields(data, 0, len(data)) == [(8, value, len(data))]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08\x80",  # half a number
        b"\x08" + b"\xff" * 9 + b"\x02",  # beyond 64 bits
        b"\x08" + b"\x80" * 10 + b"\x00",  # eleven digits
        b"\x0a\x05abc",  # too few bytes
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # far too few
        b"\x09123",
        b"\x0d12",
        b"\x0b\x0c",  # a group
        b"\x0f\x00",  # no wire type
        b"\x00\x00",  # field 0
        b"\x80\x01\x00",  # field 16
    ],
)
def test_what_is_not_plain_is_left_to_protobuf(data):
    with pytest.raises(UnusualError):
        fields(data, 0, len(data))


def test_fields_do_not_reach_beyond_their_message():
    whole = b"\x0a\x03abc"
    with pytest.raises(UnusualError):
        fields(whole, 0, 4)
    with pytest.raises(UnusualError):
        fields(b"\x08\x80\x01", 0, 2)


def test_what_is_left_is_the_same_for_requests_of_one_shape():
    def left(request_id, number):
        query = np.full((1, 3, 4), number, np.float32)
        head = tensor_head(4, pb.DATA_TYPE_FLOAT, query.shape)
        data = b"\x0a\x01m" + header(3, len(request_id)) + request_id + head + query.tobytes()
        return lift(data, 0, len(data), REQUEST, 7).data

    assert left(b"a", 1.0) == left(b"another", 2.0)
    assert pb.AttendRequest.FromString(left(b"a", 1.0)).query.shape == [1, 3, 4]


def test_payloads_are_not_copied():
    data = b"\x12\x05\x1a\x03abc"
    assert lift(data, 0, len(data), RESPONSE, 5).spans[0] == (4, 7)
