"""Whatever bytes come, the answer is an output or a clean refusal."""

from __future__ import annotations

import grpc
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from raw_calls import (
    WIDTH,
    call,
    channel_that_outlives,
    embeddings,
    read_refusal,
    refused,
    refused_stream,
    request,
    stream,
)

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor


@pytest.fixture
def channel(server):
    with channel_that_outlives(server) as channel:
        yield channel


CLEAN = {"INVALID_ARGUMENT", "NOT_FOUND"}
bounded = hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@bounded
@hypothesis.given(data=st.binary(max_size=300))
def test_random_bytes(channel, data):
    assert refused(channel, data).code in CLEAN


@bounded
@hypothesis.given(data=st.binary(max_size=300))
def test_random_bytes_for_rows(channel, data):
    assert refused_stream(channel, data).code in CLEAN


FULL_CALL = request(
    model="rotary",
    request_id="full",
    key=to_tensor(embeddings(2, 4, WIDTH)),
    value=to_tensor(embeddings(2, 4, WIDTH)),
    attn_mask=to_tensor(np.ones((3, 4), bool)),
    kv_lengths=[4, 2],
    attn_weights=pb.AttnWeightsSelection(
        heads=[1],
        queries=[2, 0],
        top_k=3,
        average_heads=True,
        stage=pb.ATTN_WEIGHTS_STAGE_MASKED,
        dtype=pb.DATA_TYPE_DOUBLE,
    ),
    output_dtype=pb.DATA_TYPE_FLOAT16,
    positions=to_tensor(np.array([7, 8, 9], np.int32)),
    key_positions=to_tensor(np.arange(8).reshape(2, 4)),
    omit_output=True,
)
FULL = FULL_CALL.SerializeToString()
FULL_ROWS = pb.AttendRowsRequest(call=FULL_CALL, rows_per_block=1).SerializeToString()


@st.composite
def mutants(draw, ancestor):
    data = bytearray(ancestor)
    size = len(ancestor)
    # where the elements are not, which is where mutations find something
    places = st.integers(0, size) | st.integers(0, 40) | st.integers(size - 200, size)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(places)
        match draw(st.sampled_from(["flip", "insert", "cut out", "truncate"])):
            case "flip" if place < len(data):
                data[place] ^= draw(st.integers(1, 255))
            case "insert":
                data[place:place] = draw(st.binary(min_size=1, max_size=10))
            case "cut out":
                del data[place : place + draw(st.integers(1, 10))]
            case "truncate":
                del data[place:]
    return bytes(data)


def code_of(answer):
    """OK if an answer has anything in it."""
    holds = answer.HasField("output") or answer.HasField("attn_weights")
    return "OK" if holds else "an empty answer"


@bounded
@hypothesis.given(data=mutants(FULL))
def test_mutants_of_a_good_request(channel, data):
    try:
        code = code_of(pb.AttendResponse.FromString(call(channel, data)))
    except grpc.RpcError as error:
        code = read_refusal(error).code
    assert code in {"OK", *CLEAN}


@bounded
@hypothesis.given(data=mutants(FULL_ROWS))
def test_mutants_of_a_good_request_for_rows(channel, data):
    try:
        answers = [pb.AttendRowsResponse.FromString(each) for each in stream(channel, data)]
        codes = {code_of(answer.block) for answer in answers} or {"no answer"}
    except grpc.RpcError as error:
        codes = {read_refusal(error).code}
    assert codes <= {"OK", *CLEAN}


@st.composite
def selections(draw):
    """Selections of 2 heads, 3 queries and 4 keys, right and wrong."""
    number = st.integers(-1, 6) | st.integers(-(2**31), 2**31 - 1)
    wrong = st.lists(number, max_size=5)
    return pb.AttnWeightsSelection(
        heads=draw(st.lists(st.integers(0, 1), unique=True) | wrong),
        queries=draw(st.lists(st.integers(0, 2), unique=True) | wrong),
        top_k=draw(number),
        average_heads=draw(st.booleans()),
        stage=draw(st.integers(0, 3) | number),
        dtype=draw(st.sampled_from([0, 1, 10, 11, 16]) | st.sampled_from([6, 7, 9, 99])),
    )


@bounded
@hypothesis.given(selection=selections(), omit_output=st.booleans())
def test_selections_of_any_kind(channel, selection, omit_output):
    message = pb.AttendRequest()
    message.CopyFrom(FULL_CALL)
    message.attn_weights.CopyFrom(selection)
    message.omit_output = omit_output
    data = message.SerializeToString()
    try:
        answer = pb.AttendResponse.FromString(call(channel, data))
    except grpc.RpcError as error:
        refusal = read_refusal(error)
        assert refusal.code == "INVALID_ARGUMENT"
        assert refusal.field.startswith("attn_weights.")
        return
    heads = 1 if selection.average_heads else len(selection.heads) or 2
    keys = min(selection.top_k or 4, 4)
    expected = [2, heads, len(selection.queries) or 3, keys]
    assert answer.attn_weights.shape == expected
    assert list(answer.top_keys.shape) == (expected if selection.top_k else [])
    assert answer.HasField("output") != omit_output


def test_the_mutants_ancestors_are_good(channel):
    assert call(channel, FULL)
    assert len(list(stream(channel, FULL_ROWS))) == 2
