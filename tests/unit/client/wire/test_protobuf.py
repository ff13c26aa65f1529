"""What is read by hand is what protobuf reads, however a message is written."""

from __future__ import annotations

import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st
from odd_messages import Scribe, is_payload, payloads_of
from odd_messages import varint as padded_varint

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import (
    ABSENT,
    VARINT,
    UnsupportedWireFormat,
    extract_payloads,
    header,
    iter_fields,
    read_varint,
    reserialize,
    tag,
    varint,
)
from polyhead.wire.tensors import tensor_head

DATA = tag(pb.Tensor.DATA_FIELD_NUMBER)
REQUEST = {  # as the server takes a request apart: tensors' elements, and the id
    tag(number): {DATA: index} for index, number in enumerate((4, 5, 6, 7, 11, 12))
} | {tag(3): 6}
RESPONSE = {
    tag(pb.AttendResponse.OUTPUT_FIELD_NUMBER): {DATA: 0},
    tag(pb.AttendResponse.ATTN_WEIGHTS_FIELD_NUMBER): {DATA: 1},
    tag(pb.AttendResponse.TOP_KEYS_FIELD_NUMBER): {DATA: 2},
    tag(pb.AttendResponse.REQUEST_ID_FIELD_NUMBER): 3,
    tag(pb.AttendResponse.EXECUTION_FIELD_NUMBER): 4,
}
STREAMED = {
    tag(pb.AttendStreamRequest.REQUESTS_FIELD_NUMBER): {
        tag(pb.StreamedRequest.CALL_FIELD_NUMBER): REQUEST,
        tag(pb.StreamedRequest.ID_FIELD_NUMBER, VARINT): 7,
        tag(pb.StreamedRequest.TIMEOUT_US_FIELD_NUMBER, VARINT): 8,
    }
}
NUM_PAYLOADS = 9
TENSORS = ("query", "key", "value", "attn_mask", "positions", "key_positions")

seeds = st.integers(0, 2**32 - 1)
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
streamed = st.builds(
    lambda number, timeout_us, call: pb.AttendStreamRequest(
        requests=[pb.StreamedRequest(id=number, timeout_us=timeout_us, call=call)]
    ),
    st.integers(0, 2**64 - 1),
    int64,
    st.none() | requests,
)
FORMATS = {
    "requests": (pb.AttendRequest, REQUEST, requests),
    "responses": (pb.AttendResponse, RESPONSE, responses),
    "streamed requests": (pb.AttendStreamRequest, STREAMED, streamed),
}
each_format = pytest.mark.parametrize(
    ("message_type", "payloads", "messages"), FORMATS.values(), ids=FORMATS
)


def read(message_type, data, payloads):
    """Read a message as client and server do: without its payloads, or reserialized first."""
    try:
        skeleton, spans = extract_payloads(data, 0, len(data), payloads, NUM_PAYLOADS)
    except UnsupportedWireFormat:
        data = reserialize(message_type, data)
        skeleton, spans = extract_payloads(data, 0, len(data), payloads, NUM_PAYLOADS)
    rest = message_type.FromString(skeleton)
    rest.DiscardUnknownFields()
    return rest, [data[start:end] for start, end in spans]


def assert_read_as_by_protobuf(message, data, payloads):
    rest, values = read(type(message), data, payloads)
    expected, expected_values = payloads_of(message, payloads)
    assert rest == expected
    for index, value in enumerate(values):
        assert is_payload(value, expected_values.get(index))


@each_format
@given(st.data())
def test_messages_are_read_as_protobuf_reads_them(message_type, payloads, messages, data):
    message = data.draw(messages)
    raw = message.SerializeToString()
    assert_read_as_by_protobuf(message, raw, payloads)
    # such messages need no detour
    assert extract_payloads(raw, 0, len(raw), payloads, NUM_PAYLOADS)


@each_format
@given(data=st.data(), seed=seeds)
def test_messages_in_odd_encodings_are_read_as_protobuf_reads_them(
    message_type, payloads, messages, data, seed
):
    raw = Scribe(random.Random(seed)).write(data.draw(messages))
    assert_read_as_by_protobuf(message_type.FromString(raw), raw, payloads)


@each_format
@given(data=st.data(), seed=seeds)
def test_a_truncated_message_is_refused_or_read_as_protobuf_does(
    message_type, payloads, messages, data, seed
):
    raw = Scribe(random.Random(seed)).write(data.draw(messages))
    assert_refused_or_read(message_type, raw[: data.draw(st.integers(0, len(raw)))], payloads)


@each_format
@given(data=st.binary(max_size=60))
@example(b"\x0b\x08\x05\x0c")  # a number within a group
def test_any_bytes_are_refused_or_read_as_protobuf_does(message_type, payloads, messages, data):
    assert_refused_or_read(message_type, data, payloads)


def assert_refused_or_read(message_type, raw, payloads):
    try:
        message = message_type.FromString(raw)
    except DecodeError:
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            read_payloads(message_type, raw, payloads)
    else:
        assert_read_as_by_protobuf(message, raw, payloads)


def read_payloads(message_type, raw, payloads):
    """Read a message, and the payloads that are text or messages themselves."""
    _, values = read(message_type, raw, payloads)
    if message_type is pb.AttendResponse:
        values[3].decode()
        pb.Execution.FromString(values[4])
    else:
        values[6].decode()


@given(st.integers(0, 2**64 - 1))
def test_varints_are_written_and_read_as_protobuf_does(value):
    data = b"\x08" + varint(value)
    assert pb.StreamedRequest.FromString(data).id == value
    assert read_varint(data, 1) == (value, len(data))
    assert list(iter_fields(data, 0, len(data))) == [(8, 1, len(data))]


@given(st.integers(0, 2**64 - 1), st.integers(1, 3))
def test_padded_varints_are_read_as_far_as_protobuf_reads_them(value, padding):
    data = padded_varint(value, padding)
    if len(data) > 10:
        with pytest.raises(UnsupportedWireFormat):
            read_varint(data)
    else:
        assert read_varint(data) == (value, len(data))
        assert pb.StreamedRequest.FromString(b"\x08" + data).id == value


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08\x80",  # half a number
        b"\x08" + b"\xff" * 9 + b"\x02",  # beyond 64 bits
        b"\x08" + b"\x80" * 10 + b"\x00",  # eleven digits
        b"\x0a\x05abc",  # too few bytes
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # far too few
        b"\x0a\x80\x80\x80\x80\x80\x00",  # a size of six digits
        b"\x88\x80\x80\x80\x80\x00\x05",  # a tag of six digits
        b"\x88\x80\x80\x80\x10\x05",  # a tag beyond 32 bits
        b"\x09123",
        b"\x0d12",
        b"\x0b\x0c",  # a group
        b"\x0c",  # the end of a group
        b"\x0f\x00",  # no wire type
        b"\x00\x00",  # field 0
    ],
)
def test_what_is_not_plain_is_left_to_protobuf(data):
    with pytest.raises(UnsupportedWireFormat):
        list(iter_fields(data, 0, len(data)))


def test_groups_are_entered_on_demand():
    data = b"\x0b\x10\x07\x0c"
    assert list(iter_fields(data, 0, 4, enter_groups=True)) == [(11, 1, 1), (16, 2, 3), (12, 4, 4)]


def test_fields_do_not_reach_beyond_their_message():
    whole = b"\x0a\x03abc"
    with pytest.raises(UnsupportedWireFormat):
        list(iter_fields(whole, 0, 4))
    with pytest.raises(UnsupportedWireFormat):
        list(iter_fields(b"\x08\x80\x01", 0, 2))


@pytest.mark.parametrize(
    "data",
    [
        b"\x1a\x01a\x1a\x01b",  # the last one counts
        b"\x22\x03\x1a\x01a\x22\x03\x1a\x01b",
        b"\x22\x02\x08\x01\x22\x03\x1a\x01b",  # the two are merged
    ],
    ids=["id", "data", "tensor"],
)
def test_payloads_that_come_twice_are_left_to_protobuf(data):
    with pytest.raises(UnsupportedWireFormat):
        extract_payloads(data, 0, len(data), REQUEST, NUM_PAYLOADS)


@pytest.mark.parametrize("number", [b"\x00", b"\x85\x00", b"\x80\x00"])
def test_payloads_that_are_numbers_are_taken_as_protobuf_writes_them_only(number):
    data = b"\x08" + number
    with pytest.raises(UnsupportedWireFormat):
        extract_payloads(data, 0, len(data), {tag(1, VARINT): 0}, 1)
    assert extract_payloads(b"\x08\x85\x01", 0, 3, {tag(1, VARINT): 0}, 1) == (b"", [(1, 3)])


def test_repeated_payloads_have_indices_of_their_own():
    payloads = {tag(7): (0, 1), tag(3): 2}
    data = b"\x3a\x01a\x0a\x01m\x3a\x00"
    skeleton, spans = extract_payloads(data, 0, len(data), payloads, 3)
    assert (skeleton, spans) == (b"\x0a\x01m", [(2, 3), (8, 8), ABSENT])
    with pytest.raises(UnsupportedWireFormat):
        extract_payloads(data + b"\x3a\x01b", 0, len(data) + 3, payloads, 3)


def test_the_skeleton_is_the_same_for_requests_of_one_shape():
    def skeleton(request_id, number):
        query = np.full((1, 3, 4), number, np.float32)
        head = tensor_head(4, pb.DATA_TYPE_FLOAT, query.shape)
        data = b"\x0a\x01m" + header(3, len(request_id)) + request_id + head + query.tobytes()
        return extract_payloads(data, 0, len(data), REQUEST, NUM_PAYLOADS).skeleton

    assert skeleton(b"a", 1.0) == skeleton(b"another", 2.0)
    assert pb.AttendRequest.FromString(skeleton(b"a", 1.0)).query.shape == [1, 3, 4]


def test_payloads_are_not_copied():
    data = b"\x12\x05\x1a\x03abc"
    assert extract_payloads(data, 0, len(data), RESPONSE, NUM_PAYLOADS).spans[0] == (4, 7)
