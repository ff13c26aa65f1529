"""Requests are read as protobuf reads them, or refused where it refuses them."""

from __future__ import annotations

import random
import tracemalloc

import hypothesis
import numpy as np
import pytest
from decoding import Decoder
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from odd_messages import Scribe, varint

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire.protobuf import UnsupportedWireFormat
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.call import (
    TENSORS,
    AttentionOutputs,
    ExecutionInfo,
    Stage,
    Timing,
    WeightsSelection,
)
from polyhead_server.codec.message_format import (
    STREAM_ID,
    TIMEOUT_US,
    parse_and_reserialize,
    read_frame,
)
from polyhead_server.codec.request import StreamedRequests
from polyhead_server.codec.response import streamed_error
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.attention.stream_messages import read_stream_message

FLOATS = [pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE]
QUERY = to_tensor(np.ones((1, 2, 3), np.float32))
GOOD_FIELD = pb.AttendRequest(query=QUERY).SerializeToString()
EXECUTED_BY = ExecutionInfo("m" * 200, 3, "CPUExecutionProvider")
few = hypothesis.settings(max_examples=150, deadline=None)
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 2**32 - 1)
indices = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)
places = st.sampled_from([np.int32, np.int64]).flatmap(
    lambda dtype: st.builds(lambda shape: to_tensor(np.ones(shape, dtype)), shapes)
)


@st.composite
def embeddings(draw):
    rng = np.random.default_rng(draw(seeds))
    array = rng.standard_normal(draw(shapes))
    return to_tensor(array, draw(st.sampled_from(FLOATS)))


masks = embeddings() | shapes.map(lambda shape: to_tensor(np.ones(shape, bool)))
selections = st.builds(
    pb.AttnWeightsSelection,
    heads=indices,
    queries=indices,
    top_k=st.integers(-(2**31), 2**31 - 1),
    average_heads=st.booleans(),
    stage=st.integers(0, 3),
    dtype=st.sampled_from([0, *FLOATS]),
)
requests = st.builds(
    pb.AttendRequest,
    model=st.text(max_size=5),
    model_version=st.integers(-(2**63), 2**63 - 1),
    request_id=st.text(max_size=60),
    query=embeddings(),
    key=st.none() | embeddings(),
    value=st.none() | embeddings(),
    attn_mask=st.none() | masks,
    kv_lengths=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    attn_weights=st.none() | selections,
    output_dtype=st.sampled_from([0, *FLOATS]),
    positions=st.none() | places,
    key_positions=st.none() | places,
    omit_output=st.booleans(),
)


def parsed(message_type, data):
    """Return what protobuf reads; None if it refuses the bytes."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        return None


def outcome(read, *given):
    """Return all that is read of a request, or the field and the reason of its refusal."""
    try:
        request, *rows_per_block = np.atleast_1d(np.array(read(*given), dtype=object))
        arrays = {
            name: (array.dtype, array.shape, array.tobytes())
            for name, array in request.arrays().items()
        }
    except InvalidRequestError as error:
        return error.field, error.reason
    return request.call, rows_per_block, request.request_id, arrays


def attended(data, decoder=None):
    """Return all that is read of a request, whether its template is known or not."""
    decoder = decoder or Decoder()
    read = outcome(Decoder().attend, data)
    for _ in range(2):
        assert outcome(decoder.attend, data) == read
    return read


def canonical(message):
    copy = type(message).FromString(message.SerializeToString())
    copy.DiscardUnknownFields()
    return copy.SerializeToString()


def assert_read(read, message):
    """Compare what was read with what protobuf reads."""
    call, _, request_id, arrays = read
    assert (call.model, call.model_version) == (message.model, message.model_version)
    assert request_id == message.request_id
    assert call.kv_lengths == tuple(message.kv_lengths)
    assert call.output_dtype == (message.output_dtype or message.query.dtype)
    assert call.need_output != message.omit_output
    for name in TENSORS:
        layout, tensor = getattr(call, name), getattr(message, name)
        assert (layout is not None) == message.HasField(name) == (name in arrays)
        if layout is not None:
            array = to_array(tensor)
            assert (layout.dtype, layout.shape) == (tensor.dtype, tuple(tensor.shape))
            assert arrays[name] == (array.dtype, array.shape, array.tobytes())
    assert (call.weights is not None) == message.HasField("attn_weights")
    if call.weights is not None:
        selection = message.attn_weights
        assert call.weights == WeightsSelection(
            heads=tuple(selection.heads),
            queries=tuple(selection.queries),
            top_k=selection.top_k,
            average_heads=selection.average_heads,
            stage=Stage(selection.stage or 1),
            dtype=selection.dtype or None,
        )


@few
@hypothesis.given(message=requests, seed=seeds)
def test_a_request_is_read_in_every_encoding(message, seed):
    data = Scribe(random.Random(seed)).write(message)
    assert canonical(pb.AttendRequest.FromString(data)) == message.SerializeToString()
    read = attended(data)
    assert_read(read, message)
    assert read == attended(message.SerializeToString())


@few
@hypothesis.given(message=requests, seed=seeds, rows=st.integers(-(2**31), 2**31 - 1))
def test_a_request_for_rows_is_read_in_every_encoding(message, seed, rows):
    given = pb.AttendRowsRequest(call=message, rows_per_block=rows)
    data = Scribe(random.Random(seed)).write(given)
    read = outcome(Decoder().attend_rows, data)
    assert_read(read, message)
    assert read[1] == [rows]


@few
@hypothesis.given(
    messages=st.lists(requests, max_size=4),
    ids=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4),
    timeouts=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
    cancelled=st.lists(st.integers(0, 2**64 - 1), max_size=4),
    seed=seeds,
)
def test_a_message_of_a_stream_is_read_in_every_encoding(messages, ids, timeouts, cancelled, seed):
    given = pb.AttendStreamRequest(
        requests=[
            pb.StreamedRequest(id=number, timeout_us=timeout, call=message)
            for number, timeout, message in zip(ids, timeouts, messages, strict=False)
        ],
        cancelled_ids=cancelled,
    )
    read = read_stream_message(Scribe(random.Random(seed)).write(given))
    assert read.cancelled_ids == [*map(varint, cancelled)]
    assert len(read.frames) == len(messages)
    decoder = Decoder()
    for _ in range(2):
        for frame, message, number, timeout in zip(
            read.frames, messages, ids, timeouts, strict=False
        ):
            match = decoder.match_streamed(read.data, *frame)
            assert match.payload(STREAM_ID) == (varint(number) if number else b"")
            assert match.payload(TIMEOUT_US) == (varint(timeout) if timeout else b"")
            assert_read(outcome(decoder.streamed, read.data, *frame), message)


def ids_of(read):
    """Return the ids of a message's requests, as the stream finds them without their calls."""
    ids = []
    for start, end in read.frames:
        try:
            ids.append(read_frame(read.data, start, end).id)
        except UnsupportedWireFormat:
            data = parse_and_reserialize(pb.AttendStreamRequest, read.data[start:end])
            ids.append(read_frame(data, 0, len(data)).id)
    return ids


def assert_same_as_by_protobuf(data, decoder=None):
    """What protobuf refuses is refused; what it reads is read as if protobuf had written it."""
    message, read = parsed(pb.AttendRequest, data), attended(data, decoder)
    if message is None:
        assert len(read) == 2, "protobuf refuses this"
    else:
        assert read == attended(canonical(message))


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(message=requests, seed=seeds)
def test_a_request_truncated_anywhere(message, seed):
    data = Scribe(random.Random(seed)).write(message)
    for size in range(len(data)):
        assert_same_as_by_protobuf(data[:size])


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    message=requests,
    seed=seeds,
    changes=st.lists(st.tuples(seeds, st.integers(1, 255)), min_size=1, max_size=3),
)
def test_a_request_with_bytes_changed_anywhere(message, seed, changes):
    data = bytearray(Scribe(random.Random(seed)).write(message))
    decoder = Decoder()
    attended(bytes(data), decoder)  # so that its template is known
    for position, flip in changes:
        data[position % len(data)] ^= flip
    assert_same_as_by_protobuf(bytes(data), decoder)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(messages=st.lists(requests, min_size=1, max_size=2), seed=seeds)
def test_a_message_of_a_stream_truncated_anywhere(messages, seed):
    given = pb.AttendStreamRequest(
        requests=[pb.StreamedRequest(id=1, call=message) for message in messages],
        cancelled_ids=[1, 300],
    )
    data = Scribe(random.Random(seed)).write(given)
    for size in range(len(data)):
        cut = data[:size]
        message = parsed(pb.AttendStreamRequest, cut)
        if message is None:
            with pytest.raises(InvalidRequestError) as caught:
                read_stream_message(cut)
            assert caught.value.reason == "MALFORMED"
        else:
            read = read_stream_message(cut)
            assert read.cancelled_ids == [*map(varint, message.cancelled_ids)]
            assert ids_of(read) == [varint(r.id) for r in message.requests]


MALFORMED_CALLS = {
    "a model's name that is no UTF-8": b"\x0a\x02\xff\xfe",
    "an id that is no UTF-8": b"\x1a\x02\xff\xfe",
    "no fields": b"\xff",
    "a truncated tensor": b"\x22\x05\x08\x01",
    "a truncated field of a tensor": b"\x22\x03\x1a\x09a",
    "the end of a group": b"\x0c",
}


def framed(number, call, rest=b""):
    """Write a message with one request, whose call is bytes."""
    request = b"\x08" + varint(number) + b"\x1a" + varint(len(call)) + call + rest
    return b"\x0a" + varint(len(request)) + request


@pytest.mark.parametrize("call", MALFORMED_CALLS.values(), ids=MALFORMED_CALLS)
def test_a_malformed_call_of_a_stream_is_refused_as_attend_refuses_it(call):
    """And does not keep other requests from being read or cancelled."""
    decoder = Decoder()
    good = framed(1, pb.AttendRequest(query=QUERY).SerializeToString())
    read = read_stream_message(good + framed(5, call) + b"\x12\x01\x09" + good)
    assert read.cancelled_ids == [varint(9)]
    assert ids_of(read) == [*map(varint, (1, 5, 1))]
    for index in (0, 2):
        assert decoder.streamed(read.data, *read.frames[index]).ids == [varint(1)]
    with pytest.raises(InvalidRequestError) as caught:
        decoder.streamed(read.data, *read.frames[1])
    with pytest.raises(InvalidRequestError) as alone:
        decoder.attend(call)
    assert (caught.value.field, caught.value.reason) == ("request", "MALFORMED")
    assert str(caught.value) == str(alone.value)


BAD_CALLS = {
    "too many fields": GOOD_FIELD + b"\x10\x00" * 70_000,
    "too many lengths": GOOD_FIELD + b"\x42" + varint(3 << 20) + bytes(3 << 20),
    "too many heads": GOOD_FIELD
    + pb.AttendRequest(
        attn_weights=pb.AttnWeightsSelection(heads=[0] * ((1 << 20) + 1))
    ).SerializeToString(),
    "no query": b"",
    "a query without data": b"\x22\x04\x08\x01\x12\x00",
    "a long id": GOOD_FIELD + b"\x1a\xac\x02" + b"x" * 300,
    "an id that is no UTF-8, after others": GOOD_FIELD + b"\x1a\x01\xff",
}


@pytest.mark.parametrize("call", BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_of_a_stream_is_refused_with_the_field_and_reason_of_attend(call):
    decoder = Decoder()
    decoder.attend(GOOD_FIELD + b"\x1a\x01a")  # so that the templates are known
    decoder.streamed(framed(1, GOOD_FIELD + b"\x1a\x01a"))
    with pytest.raises(InvalidRequestError) as alone:
        decoder.attend(call)
    for rest in (b"", b"\x80\x01\x05"):  # and with an unknown field
        with pytest.raises(InvalidRequestError) as caught:
            decoder.streamed(framed(5, call, rest))
        assert str(caught.value) == str(alone.value)
        assert (caught.value.field, caught.value.reason) == (alone.value.field, alone.value.reason)


def test_fields_within_an_unknown_group_are_not_the_messages_own():
    group = b"\x83\x01\x08\x07\x0a\x00\x84\x01"  # a group with an id and a request
    message = framed(5, GOOD_FIELD, rest=group)
    assert [r.id for r in pb.AttendStreamRequest.FromString(message + group).requests] == [5]
    read = read_stream_message(message + group)
    assert ids_of(read) == [varint(5)]
    assert Decoder().streamed(message).ids == [varint(5)]


def test_fields_that_come_twice_are_read_as_protobuf_reads_them():
    later = pb.AttendRequest(model="n", query=to_tensor(np.zeros((1, 4, 3), np.float32)))
    call = pb.AttendRequest(model="m", request_id="r", key=QUERY).SerializeToString()
    request = (
        b"\x08\x05\x10\x09\x08\x07\x1a" + varint(len(call)) + call
        + b"\x1a" + varint(later.ByteSize()) + later.SerializeToString()
    )  # fmt: skip
    data = b"\x0a" + varint(len(request)) + request
    [expected] = pb.AttendStreamRequest.FromString(data).requests
    decoder = Decoder()
    for _ in range(2):
        assert_read(outcome(decoder.streamed, data), expected.call)
        assert decoder.match_streamed(data).payload(STREAM_ID) == varint(7)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\x05ab",
        b"\x12\x01\xff",  # ids cut short within
        b"\x0a\x02\x08\xff",  # an id cut short within
        b"\x0b" * 200,
    ],
)
def test_bytes_that_are_no_message_of_a_stream_are_malformed(data):
    with pytest.raises(InvalidRequestError) as caught:
        ids_of(read_stream_message(data))
    assert (caught.value.field, caught.value.reason) == ("request", "MALFORMED")
    assert "AttendStreamRequest" in caught.value.message


@pytest.mark.parametrize("method", ["attend", "attend_rows"])
def test_megabytes_of_tiny_fields_are_refused_early(method):
    """As a list of fields, 4 MiB of them would take 300 MB, and 4 s of the event loop's time.

    They are refused for being so many, when the first thousands have been counted.
    """
    data = b"\x10\x00" * (2 << 20) + GOOD_FIELD
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError) as caught:
            getattr(Decoder(), method)(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "TOO_MANY"
    assert peak < 8 * len(data)


def test_a_request_of_many_fields_below_the_limit_is_read():
    message = pb.AttendRequest(query=to_tensor(np.ones((1, 2, 3), np.float32)), model_version=7)
    versions = b"\x10\x05" * 8_000 + b"\x10\x07"
    newer = b"\xfa\x01" + varint(1 << 22) + bytes(1 << 22)  # field 31, large and not known here
    assert_read(attended(message.SerializeToString() + newer + versions), message)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x0a\x00" * (1 << 17), "requests"),
        (b"\x12" + varint(1 << 21) + bytes(1 << 21), "cancelled_ids"),
    ],
)
def test_too_many_requests_or_ids_in_a_message_of_a_stream_are_refused(data, field):
    with pytest.raises(InvalidRequestError) as caught:
        read_stream_message(data)
    assert (caught.value.field, caught.value.reason) == (field, "TOO_MANY")


# ---------------------------------------------------------------- groups


def group_of(calls, first_id=1):
    """Read requests of one template as a group, and each by itself."""
    requests = [
        pb.StreamedRequest(id=number, timeout_us=900, call=call)
        for number, call in enumerate(calls, start=first_id)
    ]
    read = read_stream_message(pb.AttendStreamRequest(requests=requests).SerializeToString())
    decoder = Decoder()
    singles = [decoder.streamed(read.data, *frame) for frame in read.frames]
    match = decoder.match_streamed(read.data, *read.frames[0]).extended(len(calls))
    return StreamedRequests(match, match.value, match.column(STREAM_ID)), singles


def numbered_call(number, dtype=pb.DATA_TYPE_FLOAT, **fields):
    rng = np.random.default_rng(number)
    query, key = (rng.standard_normal(shape) for shape in ((2, 3, 4), (2, 5, 4)))
    given = {"model": "m", "query": to_tensor(query, dtype), "key": to_tensor(key)}
    return pb.AttendRequest(**(given | fields))


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    count=st.integers(1, 20),
    first_id=st.sampled_from([1, 100, 16400, 2**40, 2**62]),
    dtype=st.sampled_from(FLOATS),
    output_dtype=st.sampled_from([0, *FLOATS]),
)
def test_a_group_is_read_and_answered_as_each_request_by_itself(
    count, first_id, dtype, output_dtype
):
    calls = [numbered_call(n, dtype, output_dtype=output_dtype) for n in range(count)]
    group, singles = group_of(calls, first_id)
    assert group.ids == [varint(first_id + n) for n in range(count)]
    for name, array in group.arrays().items():
        expected = np.concatenate([single.arrays()[name] for single in singles])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    rng = np.random.default_rng(count)
    size = 2 * count
    outputs = AttentionOutputs(
        rng.standard_normal((size, 3, 4)).astype(np.float32),
        rng.random((size, 2, 3, 5), np.float32),
        rng.integers(0, 5, (size, 2, 3, 5), np.int32),
        is_fused=True,
    )
    timing = Timing(1.5, 2.5, size)
    response = group.respond(EXECUTED_BY, outputs, timing)
    own = [
        single.respond(EXECUTED_BY, outputs.part(at, at + 2), timing).joined()
        for at, single in zip(range(0, size, 2), singles, strict=True)
    ]
    assert response.joined() == b"".join(own)
    assert response.size == len(response.joined())


def test_parts_of_a_group():
    group, singles = group_of([numbered_call(n) for n in range(5)])
    assert [single.ids for single in group.split()] == [[varint(n)] for n in range(1, 6)]
    before, after = group.without(varint(2))
    [rest] = group.without(varint(1))
    assert sum(part.nbytes for part in (before, after)) == 4 * singles[0].nbytes
    for part, indices in (
        (group.split()[3], [3]),
        (before, [0]),
        (after, [2, 3, 4]),
        (rest, [1, 2, 3, 4]),
        (rest.without(varint(5))[0], [1, 2, 3]),
    ):
        assert part.ids == [varint(1 + index) for index in indices]
        expected = [singles[index].arrays()["query"] for index in indices]
        np.testing.assert_array_equal(part.arrays()["query"], np.concatenate(expected))
        output = np.ones((2 * len(indices), 3, 4), np.float32)
        outputs = AttentionOutputs(output, None, None, is_fused=True)
        response = part.respond(EXECUTED_BY, outputs, Timing(1.5, 2.5, 4))
        replies = pb.AttendStreamResponse.FromString(response.joined()).replies
        assert [varint(reply.id) for reply in replies] == part.ids


def test_the_arrays_of_a_group_do_not_keep_its_message():
    group, _ = group_of([numbered_call(n) for n in range(4)])
    memory = np.frombuffer(group.match.data, np.uint8)
    for array in group.arrays().values():
        assert not np.shares_memory(array, memory)


def test_a_small_request_does_not_keep_the_message_it_came_in():
    _, singles = group_of([numbered_call(n) for n in range(4)])
    assert {len(single.match.data) for single in singles} == {singles[0].nbytes}


# ---------------------------------------------------------------- responses


@few
@hypothesis.given(
    request_id=st.text(max_size=60),
    dtypes=st.tuples(st.sampled_from([0, *FLOATS]), st.sampled_from([0, *FLOATS])),
    has=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    is_fused=st.booleans(),
    timing=st.builds(Timing, st.floats(0, 1e9), st.floats(0, 1e9), st.integers(1, 2**31 - 1)),
    seed=seeds,
    number=st.integers(0, 2**64 - 1),
    first_row=st.integers(0, 2**63 - 1),
)
def test_responses_hold_the_values_written(
    request_id, dtypes, has, is_fused, timing, seed, number, first_row
):
    rng = np.random.default_rng(seed)
    output_dtype, weights_dtype = dtypes
    message = pb.AttendRequest(
        request_id=request_id,
        query=to_tensor(np.ones((2, 3, 4), np.float32)),
        output_dtype=output_dtype,
        attn_weights=pb.AttnWeightsSelection(dtype=weights_dtype),
    )
    call = message.SerializeToString()
    given = pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=number, call=message)])
    decoder = Decoder()
    attend = decoder.attend(call)
    attend_rows, _ = decoder.attend_rows(pb.AttendRowsRequest(call=message).SerializeToString())
    streamed = decoder.streamed(given.SerializeToString())

    arrays = {
        "output": rng.standard_normal((2, 3, 50)).astype(np.float32),
        "attn_weights": rng.random((2, 1, 3, 3), np.float32),
        "top_keys": rng.integers(0, 9, (2, 1, 3, 3), np.int32),
    }
    arrays = {name: array for (name, array), kept in zip(arrays.items(), has, strict=True) if kept}
    nothing = dict.fromkeys(("output", "attn_weights", "top_keys"))
    outputs = AttentionOutputs(**(nothing | arrays), is_fused=is_fused)

    response = pb.AttendResponse.FromString(attend.respond(EXECUTED_BY, outputs, timing))
    assert response.request_id == request_id
    wanted = {
        "output": output_dtype or pb.DATA_TYPE_FLOAT,
        "attn_weights": weights_dtype or output_dtype or pb.DATA_TYPE_FLOAT,
        "top_keys": pb.DATA_TYPE_INT32,
    }
    for name, dtype in wanted.items():
        assert response.HasField(name) == (name in arrays)
        if name in arrays:
            assert getattr(response, name) == to_tensor(arrays[name], dtype)
    assert response.execution == pb.Execution(
        model=EXECUTED_BY.model,
        model_version=3,
        provider="CPUExecutionProvider",
        kernel=pb.ATTENTION_KERNEL_FUSED if is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
        queue_ms=timing.queue_ms,
        compute_ms=timing.compute_ms,
        batch_size=timing.batch_size,
    )

    block = attend_rows.respond(EXECUTED_BY, first_row, outputs, timing)
    rows = pb.AttendRowsResponse.FromString(block)
    assert rows == pb.AttendRowsResponse(first_row=first_row, block=response)

    part = streamed.respond(EXECUTED_BY, outputs, timing)
    assert len(part.joined()) == part.size
    status = errors_pb2.RpcStatus(code=3, message=request_id)
    failure = streamed_error(varint(number), status)
    assert len(failure.joined()) == failure.size
    both = pb.AttendStreamResponse.FromString(part.joined() + failure.joined())
    assert list(both.replies) == [
        pb.StreamedReply(id=number, response=response),
        pb.StreamedReply(id=number, error=status),
    ]
