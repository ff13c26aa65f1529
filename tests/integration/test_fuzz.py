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
    request,
)

from polyhead.tensors import to_tensor
from polyhead.v1 import attention_pb2 as pb


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


FULL = request(
    request_id="full",
    key=to_tensor(embeddings(2, 4, WIDTH)),
    value=to_tensor(embeddings(2, 4, WIDTH)),
    attn_mask=to_tensor(np.ones((3, 4), bool)),
    kv_lengths=[4, 2],
    attn_weights=pb.AttnWeightsSelection(heads=[1], queries=[2, 0]),
    output_dtype=pb.DATA_TYPE_FLOAT16,
).SerializeToString()
# where the elements are not, which is where mutations find something
PLACES = st.integers(0, len(FULL)) | st.integers(0, 40) | st.integers(len(FULL) - 60, len(FULL))


@st.composite
def mutants(draw):
    data = bytearray(FULL)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(PLACES)
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


@bounded
@hypothesis.given(data=mutants())
def test_mutants_of_a_good_request(channel, data):
    try:
        answer = call(channel, data)
    except grpc.RpcError as error:
        code = read_refusal(error).code
    else:
        code = "OK" if pb.AttendResponse.FromString(answer).HasField("output") else "no output"
    assert code in {"OK", *CLEAN}


def test_the_mutants_ancestor_is_good(channel):
    assert call(channel, FULL)
