"""Requests that are alike are read, run and answered together as each would be by itself."""

from __future__ import annotations

from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import to_tensor
from polyhead_server.call import AttentionOutputs, Timing
from polyhead_server.codec.request import StreamedRequest
from polyhead_server.services.attention.alike_requests import AlikeRequests
from polyhead_server.services.attention.stream_messages import read_stream_message

MODEL = SimpleNamespace(name="m", version=3, providers=["CPUExecutionProvider"])
DTYPES = [pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE]
TIMING = Timing(1.5, 2.5, 4)


def call_of(number, dtype=pb.DATA_TYPE_FLOAT, **more):
    rng = np.random.default_rng(number)
    query, key = (rng.standard_normal(shape) for shape in ((2, 3, 4), (2, 5, 4)))
    return pb.AttendRequest(
        **({"model": "m", "query": to_tensor(query, dtype), "key": to_tensor(key)} | more)
    )


def ids(*numbers):
    return [varint(number) for number in numbers]


def message_of(calls, first_id=1):
    requests = [
        pb.StreamedRequest(id=number, timeout_us=900, call=each)
        for number, each in enumerate(calls, start=first_id)
    ]
    return read_stream_message(pb.AttendStreamRequest(requests=requests).SerializeToString())


def single(message, run, index):
    request = StreamedRequest(run.place(index), message.data)
    request.accept(request.read_call())
    return request


def together(message, run, index=0, most=64, multiple=64):
    return AlikeRequests.of(single(message, run, index), run, index, most=most, multiple=multiple)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
    count=st.integers(2, 20),
    first_id=st.sampled_from([1, 100, 127, 16380, 2**40, 2**62, 2**63 - 4, 2**64 - 30]),
    dtype=st.sampled_from(DTYPES),
    output_dtype=st.sampled_from([0, *DTYPES]),
)
def test_all_is_as_it_is_one_by_one(count, first_id, dtype, output_dtype):
    calls = [call_of(n, dtype, output_dtype=output_dtype) for n in range(count)]
    message = message_of(calls, first_id)
    assert [own for run in message.runs for own in run.ids] == ids(
        *range(first_id, first_id + count)
    )
    for run in message.runs:
        singles = [single(message, run, index) for index in range(len(run.ids))]
        alike = together(message, run)
        if len(run.ids) == 1:
            assert alike is None
            continue
        assert alike.ids == run.ids
        for name, array in alike.arrays().items():
            expected = np.concatenate([one.arrays()[name] for one in singles])
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)

        rng = np.random.default_rng(count)
        size = 2 * len(run.ids)
        outputs = [
            rng.standard_normal((size, 3, 4)).astype(np.float32),
            rng.random((size, 2, 3, 5), np.float32),
            rng.integers(0, 5, (size, 2, 3, 5), np.int32),
        ]
        reply = alike.reply(MODEL, AttentionOutputs(*outputs, is_fused=True), TIMING)
        own = [
            one.reply(
                MODEL,
                AttentionOutputs(*(part[at : at + 2] for part in outputs), is_fused=True),
                TIMING,
            ).joined()
            for at, one in zip(range(0, size, 2), singles, strict=True)
        ]
        assert reply.joined() == b"".join(own)
        assert reply.size == len(reply.joined())


def test_parts_of_them():
    message = message_of([call_of(n) for n in range(5)])
    (run,) = message.runs
    alike = together(message, run)
    apart = alike.split()
    assert [one.ids for one in apart] == [ids(n) for n in (1, 2, 3, 4, 5)]
    rest = alike.without(varint(2))
    assert rest.ids == ids(1, 3, 4, 5)
    assert rest.size == 4 * apart[0].size
    for part, indices in ((apart[3], [3]), (rest, [0, 2, 3, 4])):
        expected = [single(message, run, index).arrays()["query"] for index in indices]
        np.testing.assert_array_equal(part.arrays()["query"], np.concatenate(expected))
        outputs = AttentionOutputs(
            np.ones((2 * len(indices), 3, 4), np.float32), None, None, is_fused=True
        )
        reply = pb.AttendStreamResponse.FromString(part.reply(MODEL, outputs, TIMING).joined())
        assert ids(*(one.id for one in reply.replies)) == part.ids


OTHERS = {
    "model": call_of(9, model="n"),
    "shape": call_of(9, query=to_tensor(np.ones((2, 4, 3), np.float32))),
    "selection": call_of(9, attn_weights=pb.AttnWeightsSelection(heads=[1])),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_one_of_another_form_ends_them(other):
    fill = pb.AttnWeightsSelection(heads=[2])
    likes = {"attn_weights": fill} if other.HasField("attn_weights") else {}
    message = message_of([*(call_of(n, **likes) for n in range(4)), other, call_of(5, **likes)])
    (run,) = message.runs  # all of one size
    assert len(run.ids) == 6
    assert together(message, run).ids == ids(1, 2, 3, 4)
    assert together(message, run, 1).ids == ids(2, 3, 4)
    assert together(message, run, 3) is None
    assert together(message, run, 4) is None


def test_no_more_than_wanted_and_no_odd_rest():
    message = message_of([call_of(n) for n in range(20)])
    (run,) = message.runs
    assert len(together(message, run, most=7).ids) == 7
    assert len(together(message, run, multiple=8).ids) == 16
    assert together(message, run, 16, multiple=8).ids == ids(17, 18, 19, 20)
    assert together(message, run, most=1) is None
    assert together(message, run, most=0) is None
    assert len(together(message, run, multiple=1).ids) == 20


def test_those_with_names_are_answered_by_themselves():
    message = message_of([call_of(n, request_id=f"r{n}") for n in range(4)])
    (run,) = message.runs
    assert together(message, run) is None


def test_a_message_is_not_kept():
    message = message_of([call_of(n) for n in range(4)])
    alike = together(message, message.runs[0])
    memory = np.frombuffer(message.data, np.uint8)
    for array in alike.arrays().values():
        assert not np.shares_memory(array, memory)
