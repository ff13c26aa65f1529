"""Whatever the stubs read is read as they read it, and nothing else is read at all."""

from __future__ import annotations

import random
import tracemalloc
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from odd_messages import Scribe, varint

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import errors_pb2
from polyhead.wire import protobuf as framing
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.call import TENSORS, AttentionOutputs, Stage, Timing, WeightsSelection
from polyhead_server.codec import request as codec
from polyhead_server.codec.request import (
    AttendRequest,
    AttendRowsRequest,
    StreamedRequest,
)
from polyhead_server.codec.response import streamed_error
from polyhead_server.errors import InvalidRequestError
from polyhead_server.services.attention.stream_messages import number_of, read_stream_message

FLOATS = [pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE]
GOOD = to_tensor(np.ones((1, 2, 3), np.float32)).SerializeToString()
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
    """What the stubs read; None if that is nothing."""
    try:
        return message_type.FromString(data)
    except DecodeError:
        return None


def outcome(make_request):
    """All that is read of a request, or the field and the reason of its refusal."""
    try:
        request = make_request()
        call, *rows_per_block = np.atleast_1d(np.array(request.read_call(), dtype=object))
        request.accept(call)
        arrays = {
            name: (array.dtype, array.shape, array.tobytes())
            for name, array in request.arrays().items()
        }
    except InvalidRequestError as error:
        return error.field, error.reason
    return call, rows_per_block, request.request_id, arrays


def attended(data):
    """All that is read of a request, be it of a pattern that is known or not."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(codec._ATTEND, "_patterns", {})
        read = outcome(lambda: AttendRequest(data))
    for _ in range(2):
        assert outcome(lambda: AttendRequest(data)) == read
    return read


def streamed(place, data):
    return outcome(lambda: StreamedRequest(place, data))


def canonical(message):
    copy = type(message).FromString(message.SerializeToString())
    copy.DiscardUnknownFields()
    return copy.SerializeToString()


def assert_read(read, message):
    """Hold what was read against what the stubs say."""
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
def test_a_request_is_read_in_whatever_form_it_is_written(message, seed):
    data = Scribe(random.Random(seed)).write(message)
    assert canonical(pb.AttendRequest.FromString(data)) == message.SerializeToString()
    read = attended(data)
    assert_read(read, message)
    assert read == attended(message.SerializeToString())


@few
@hypothesis.given(message=requests, seed=seeds, rows=st.integers(-(2**31), 2**31 - 1))
def test_so_is_a_request_for_rows(message, seed, rows):
    given = pb.AttendRowsRequest(call=message, rows_per_block=rows)
    data = Scribe(random.Random(seed)).write(given)
    read = outcome(lambda: AttendRowsRequest(data))
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
def test_so_is_a_message_of_a_stream(messages, ids, timeouts, cancelled, seed):
    given = pb.AttendStreamRequest(
        requests=[
            pb.StreamedRequest(id=number, timeout_us=timeout, call=message)
            for number, timeout, message in zip(ids, timeouts, messages, strict=False)
        ],
        cancelled_ids=cancelled,
        num_awaited=seed,
    )
    read = read_stream_message(Scribe(random.Random(seed)).write(given))
    assert (read.cancelled, read.num_awaited) == ([*map(varint, cancelled)], seed)
    found = places(read)
    assert len(found) == len(messages)
    for place, message, number, timeout in zip(found, messages, ids, timeouts, strict=False):
        assert (place.id, place.timeout_us) == (varint(number), timeout % 2**64)
        assert_read(streamed(place, read.data), message)


def places(read):
    return [run.place(index) for run in read.runs for index in range(len(run.ids))]


def assert_same_as_stubs(data):
    """What the stubs refuse is refused; what they read, as if they had written it."""
    message, read = parsed(pb.AttendRequest, data), attended(data)
    if message is None:
        assert len(read) == 2, "the stubs refuse this"
    else:
        assert read == attended(canonical(message))


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(message=requests, seed=seeds)
def test_cut_short_anywhere(message, seed):
    data = Scribe(random.Random(seed)).write(message)
    for size in range(len(data)):
        assert_same_as_stubs(data[:size])


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(
    message=requests,
    seed=seeds,
    changes=st.lists(st.tuples(seeds, st.integers(1, 255)), min_size=1, max_size=3),
)
def test_spoilt_anywhere(message, seed, changes):
    data = bytearray(Scribe(random.Random(seed)).write(message))
    attended(bytes(data))  # so that its pattern is known
    for place, flip in changes:
        data[place % len(data)] ^= flip
    assert_same_as_stubs(bytes(data))


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(messages=st.lists(requests, min_size=1, max_size=2), seed=seeds)
def test_a_message_of_a_stream_cut_short_anywhere(messages, seed):
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
            assert read.cancelled == [*map(varint, message.cancelled_ids)]
            assert [place.id for place in places(read)] == [varint(r.id) for r in message.requests]


def test_a_malformed_request_does_not_keep_others_from_being_cancelled():
    call = b"\x0a\x02\xff\xfe"  # a model's name that is no UTF-8
    data = b"\x0a\x08\x08\x05\x1a" + varint(len(call)) + call + b"\x12\x01\x09"
    read = read_stream_message(data)
    assert read.cancelled == [varint(9)]
    (place,) = places(read)
    assert number_of(place.id) == 5
    assert streamed(place, read.data) == ("request", "MALFORMED")


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
def test_bytes_that_are_no_message_of_a_stream(data):
    with pytest.raises(InvalidRequestError) as caught:
        read_stream_message(data)
    assert (caught.value.field, caught.value.reason) == ("request", "MALFORMED")
    assert "AttendStreamRequest" in caught.value.message


@pytest.mark.parametrize("read", [AttendRequest, AttendRowsRequest])
def test_megabytes_of_tiny_fields_are_not_read_one_by_one_in_python(read):
    """As a list of fields, 4 MiB of them would take 300 MB, and 4 s of the event loop's time.

    They are refused for being so many, when the first thousands have been counted.
    """
    query = b"\x22" + varint(len(GOOD)) + GOOD
    data = b"\x10\x00" * (2 << 20) + query
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequestError) as caught:
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "TOO_MANY"
    assert peak < 8 * len(data)


def test_a_lifter_learns_within_bounds(monkeypatch):
    monkeypatch.setattr(framing, "_MAX_LENGTHS", 5)
    payloads, count = codec._payloads(), len(TENSORS) + 1
    lifter = framing.Lifter(payloads, count)

    def lifts(message):
        data = b"?" + message.SerializeToString() + b"?"
        lifted = lifter.lift(data, 1, len(data) - 1)
        assert lifted == framing.lift(data, 1, len(data) - 1, payloads, count)
        return len(data) - 2

    for length in range(1, 30):
        query = to_tensor(np.full((1, length, 1), length, np.float32))
        for model in "abcdefghijkl":
            for _ in range(2):
                lifts(pb.AttendRequest(model=model, query=query, request_id=model))
    assert 0 < len(lifter._patterns) <= 5
    assert max(map(len, lifter._patterns.values())) <= framing._PATTERNS_OF_A_LENGTH
    assert lifts(pb.AttendRequest(query=query, kv_lengths=[1] * 5000)) not in lifter._patterns


def test_a_request_of_many_fields_is_read_all_the_same():
    message = pb.AttendRequest(query=to_tensor(np.ones((1, 2, 3), np.float32)), model_version=7)
    versions = b"\x10\x05" * 60_000 + b"\x10\x07"
    newer = b"\xfa\x01" + varint(1 << 22) + bytes(1 << 22)  # field 31, large and not known here
    assert_read(attended(message.SerializeToString() + newer + versions), message)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x0a\x00" * (1 << 17), "request"),
        (b"\x12" + varint(1 << 21) + bytes(1 << 21), "cancelled_ids"),
    ],
)
def test_too_many_at_once_in_a_message_of_a_stream(data, field):
    with pytest.raises(InvalidRequestError) as caught:
        read_stream_message(data)
    assert (caught.value.field, caught.value.reason) == (field, "TOO_MANY")


# ---------------------------------------------------------------- replies

MODEL = SimpleNamespace(name="m" * 200, version=3, providers=["CPUExecutionProvider"])


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
def test_replies_hold_what_went_into_them(
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
    read = read_stream_message(given.SerializeToString())
    asked = [
        AttendRequest(call),
        AttendRowsRequest(pb.AttendRowsRequest(call=message).SerializeToString()),
        StreamedRequest(places(read)[0], read.data),
    ]
    asked[0].accept(asked[0].read_call())
    asked[1].accept(asked[1].read_call()[0])
    asked[2].accept(asked[2].read_call())

    arrays = {
        "output": rng.standard_normal((2, 3, 50)).astype(np.float32),
        "attn_weights": rng.random((2, 1, 3, 3), np.float32),
        "top_keys": rng.integers(0, 9, (2, 1, 3, 3), np.int32),
    }
    arrays = {name: array for (name, array), kept in zip(arrays.items(), has, strict=True) if kept}
    nothing = dict.fromkeys(("output", "attn_weights", "top_keys"))
    outputs = AttentionOutputs(**(nothing | arrays), is_fused=is_fused)

    response = pb.AttendResponse.FromString(asked[0].reply(MODEL, outputs, timing))
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
        model=MODEL.name,
        model_version=3,
        provider="CPUExecutionProvider",
        kernel=pb.ATTENTION_KERNEL_FUSED if is_fused else pb.ATTENTION_KERNEL_EXPLICIT,
        queue_ms=timing.queue_ms,
        compute_ms=timing.compute_ms,
        batch_size=timing.batch_size,
    )

    rows = pb.AttendRowsResponse.FromString(asked[1].reply(MODEL, first_row, outputs, timing))
    assert rows == pb.AttendRowsResponse(first_row=first_row, block=response)

    part = asked[2].reply(MODEL, outputs, timing)
    assert len(part.joined()) == part.size
    status = errors_pb2.RpcStatus(code=3, message=request_id)
    failure = streamed_error(varint(number), status)
    assert len(failure.joined()) == failure.size
    both = pb.AttendStreamResponse.FromString(part.joined() + failure.joined())
    assert list(both.replies) == [
        pb.StreamedReply(id=number, response=response),
        pb.StreamedReply(id=number, error=status),
    ]
