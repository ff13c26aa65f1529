"""Responses of one template that come together are read as each would be by itself."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead import ServerError
from polyhead._calls import response as response_module
from polyhead._calls.request import prepare_call
from polyhead._calls.response import parse_attend_response, parse_attend_responses
from polyhead._stream.messages import read_replies
from polyhead.results import Weights
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import to_tensor

QUERY = np.ones((2, 3, 4), np.float32)


def response_of(seed, dtype=pb.DATA_TYPE_FLOAT, **more):
    rng = np.random.default_rng(seed)
    return pb.AttendResponse(
        output=to_tensor(rng.standard_normal((2, 3, 4)).astype(np.float32), dtype),
        attn_weights=to_tensor(rng.random((2, 2, 3, 2), np.float32)),
        top_keys=to_tensor(rng.integers(0, 9, (2, 2, 3, 2), np.int32)),
        **more,
    )


def expected_response(query=QUERY):
    return prepare_call(query, model="m", need_weights=Weights(top_k=2)).expected


def streamed(responses):
    """Write responses as the replies to requests 7, 8, ..."""
    replies = [pb.StreamedReply(id=n, response=each) for n, each in enumerate(responses, start=7)]
    return pb.AttendStreamResponse(replies=replies).SerializeToString()


def group_of(responses):
    """Read responses of one template as a group, and return it with what each is by itself."""
    responses = list(responses)
    [group] = read_replies(streamed(responses))
    assert group.ids == [varint(7 + index) for index in range(len(responses))]
    assert group.match.count == len(responses)
    assert group.error is None
    return group.match, [each.SerializeToString() for each in responses]


def results_of(match, singles, expected):
    """Read a group; and each as if it had come alone, which must be the same."""
    results = parse_attend_responses(expected, match)
    for result, single, own in zip(results, singles, expected, strict=True):
        if own is None:
            assert result is None
        elif isinstance(result, ServerError):
            with pytest.raises(ServerError) as caught:
                parse_attend_response(own, single)
            assert str(caught.value) == str(result)
        else:
            assert_same(result, parse_attend_response(own, single))
    return results


def assert_same(result, expected):
    for name in ("output", "attn_weights", "top_keys"):
        array = getattr(result, name)
        assert array.dtype == getattr(expected, name).dtype
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, getattr(expected, name))
    assert result.request_id == expected.request_id
    assert result.execution == expected.execution


@pytest.mark.parametrize("dtype", [pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE])
def test_a_group_is_read_as_each_response_by_itself(dtype):
    """Though they differ in numbers, ids and executions."""
    match, singles = group_of(
        response_of(
            n,
            dtype,
            request_id=f"é{n}",
            execution=pb.Execution(model="m", queue_ms=n // 2 + 0.5, batch_size=3),
        )
        for n in range(9)
    )
    results = results_of(match, singles, [expected_response()] * 9)
    assert [result.request_id for result in results] == [f"é{n}" for n in range(9)]
    assert [result.execution.queue_ms for result in results] == [n // 2 + 0.5 for n in range(9)]


def test_a_group_is_checked_once(monkeypatch):
    match, _ = group_of(response_of(n) for n in range(5))
    checked, check = [], response_module._check
    monkeypatch.setattr(
        response_module, "_check", lambda *given: checked.append(given) or check(*given)
    )
    results = parse_attend_responses([expected_response()] * 5, match)
    assert (len(results), len(checked)) == (5, 1)


def test_a_group_is_read_by_the_expectations_of_each_request():
    """Where that changes within a group, and where a request was abandoned."""
    match, singles = group_of(response_of(n) for n in range(6))
    expected, longer = expected_response(), expected_response(np.ones((2, 5, 4), np.float32))
    results = results_of(match, singles, [expected, expected, None, expected, longer, expected])
    assert [type(result).__name__ for result in results] == [
        *("AttentionResult", "AttentionResult", "NoneType"),
        *("AttentionResult", "ServerError", "AttentionResult"),
    ]
    assert "expected 3 axes, a batch size of 2 and 5 rows" in str(results[4])


def test_a_response_of_another_template_and_the_same_size_is_a_group_of_its_own():
    other = response_of(5)
    other.output.shape[:] = [2, 4, 3]
    responses = [response_of(0), response_of(1), other, response_of(2), response_of(3)]
    groups = list(read_replies(streamed(responses)))
    assert [group.ids for group in groups] == [
        [varint(7), varint(8)],
        [varint(9)],
        [varint(10), varint(11)],
    ]
    single = [other.SerializeToString()]
    [wrong] = results_of(groups[1].match, single, [expected_response()])
    assert isinstance(wrong, ServerError)
    results = results_of(
        groups[2].match,
        [each.SerializeToString() for each in responses[3:]],
        [expected_response()] * 2,
    )
    np.testing.assert_array_equal(
        results[0].output, np.frombuffer(responses[3].output.data, np.float32).reshape(2, 3, 4)
    )


def test_an_id_that_is_no_text_is_a_failure_of_that_response_alone():
    raw = [response_of(n, request_id="ab").SerializeToString() for n in range(4)]
    raw[1] = raw[1].replace(b"ab", b"\xff\xff")
    framed = [
        b"\x08" + varint(n) + b"\x12" + varint(len(one)) + one for n, one in enumerate(raw, 1)
    ]
    [group] = read_replies(b"".join(b"\x0a" + varint(len(frame)) + frame for frame in framed))
    first, wrong, *others = results_of(group.match, raw, [expected_response()] * 4)
    assert [result.request_id for result in (first, *others)] == ["ab"] * 3
    assert "could not be read" in str(wrong)
    assert wrong.__traceback__ is None
