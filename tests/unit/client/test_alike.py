"""What is alike is found, read and written together as it would be one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyhead import ServerError
from polyhead._calls import response as _replies
from polyhead._calls.request import prepare_call
from polyhead._calls.response import parse_attend_response, parse_attend_responses
from polyhead._stream.messages import RESPONSE, read_replies
from polyhead.results import Weights
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire import template as alike_module
from polyhead.wire.protobuf import varint
from polyhead.wire.template import Records, beside, numbered
from polyhead.wire.tensors import to_tensor

ids = st.integers(0, 2**64 - 1)
few_bytes = st.binary(min_size=2, max_size=2)


@given(
    st.lists(st.tuples(few_bytes, few_bytes), min_size=1, max_size=9),
    st.integers(0, 9),
    st.binary(max_size=3),
    st.booleans(),
)
def test_records_are_alike_up_to_the_first_that_is_not(lines, other, before, in_order):
    lines = [(b"ab", varying, b"cd", varied) for varying, varied in lines]
    if 0 < other < len(lines):
        lines[other] = (b"ab", b"..", b"cx", b"..")
    data = b"".join([before, *(b"".join(line) for line in lines), b"abcd"])
    records = Records(data, len(before), 8, len(lines))
    spans = ((2, 4), (6, 8)) if in_order else ((6, 8), (2, 4))
    alike = records.like_first(spans)
    count = other if 0 < other < len(lines) else len(lines)
    assert alike == records.part(0, count)
    assert alike.num_records == count
    assert alike.column((2, 4)) == [line[1] for line in lines[:count]]
    assert alike.part(1, 3).column((1, 3)) == [b"b" + line[1][:1] for line in lines[1:count][:3]]


@given(
    st.lists(ids | st.integers(0, 127), min_size=1, max_size=9),
    st.binary(max_size=3),
    st.binary(max_size=3),
)
def test_numbered_messages_are_found_as_far_as_their_numbers_are_of_one_size(numbers, head, body):
    """And what they hold is not looked at; not even whether it is alike."""
    written = [varint(number) for number in numbers]
    lines = [b"<" + number + b">" + body + b"!" for number in written]
    data = head + b"".join(lines)
    begin, end = len(head), len(head) + len(lines[0])
    size = len(written[0])
    found = numbered(data, begin, end, (1, 1 + size), (2 + size, 2 + size + len(body)))
    count = next((n for n, own in enumerate(written) if len(own) != size), len(written))
    zeros = [n for n, number in enumerate(numbers[:count]) if number == 0]  # read one by one
    count = zeros[0] if zeros else count
    if count < 2 or size > 9:
        assert found is None
    else:
        assert found is not None
        assert found[0] == written[:count]
        assert found[1] == Records(data, begin, len(lines[0]), count)


@pytest.mark.parametrize(
    "number", [b"\x85\x00", b"\x05\x05", b"\x85\x85"], ids=["too long", "two", "goes on"]
)
def test_what_is_no_number_as_protobuf_writes_it_ends_them(number):
    written = [b"\x81\x01", b"\x82\x01", number, b"\x83\x01"]
    data = b"".join(b"\x08" + each + b"x" for each in written)
    found = numbered(data, 0, 4, (1, 3), (3, 4))
    assert found is not None
    assert found[0] == written[:2]
    assert numbered(data, 8, 12, (1, 3), (3, 4)) is None


def test_no_more_are_compared_at_once_than_is_worth_it():
    data = b"".join(b"\x08" + varint(number) + b"x" for number in range(1, 101))
    found = numbered(data, 0, 3, (1, 2), (2, 3))
    assert found is not None
    assert found[0] == [varint(number + 1) for number in range(alike_module._MOST)]


@pytest.mark.parametrize(
    ("number", "body"), [((0, 0), (2, 3)), ((1, 2), (0, 0))], ids=["no number", "no body"]
)
def test_without_a_number_or_a_body_nothing_is_alike(number, body):
    assert numbered(b"\x08\x01x\x08\x01x", 0, 3, number, body) is None


def test_columns_are_written_side_by_side():
    each = np.arange(6, dtype=np.uint16).reshape(3, 2)
    messages = beside(3, [b"<", [b"a", b"b", b"c"], each.data, b">"])
    expected = [
        b"<" + name + own.tobytes() + b">"
        for name, own in zip((b"a", b"b", b"c"), each, strict=True)
    ]
    assert messages == b"".join(expected)


# ---------------------------------------------------------------- replies

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


def replies_of(responses):
    responses = list(responses)
    numbered_ones = enumerate(responses, start=7)
    message = pb.AttendStreamResponse(
        replies=[pb.StreamedReply(id=number, response=each) for number, each in numbered_ones]
    )
    [replies] = read_replies(message.SerializeToString())
    assert replies.ids == [varint(7 + place) for place in range(len(responses))]
    assert replies.outcome == RESPONSE
    return replies


def results_of(replies, expected):
    """Read replies; and each as if it had come alone, which must be the same."""
    results = list(parse_attend_responses(expected, replies.records, replies.span))
    parts = replies.records.column(replies.span)
    for result, part, own in zip(results, parts, expected, strict=True):
        if own is None:
            assert result is None
        elif isinstance(result, ServerError):
            with pytest.raises(ServerError) as caught:
                parse_attend_response(own, part)
            assert str(caught.value) == str(result)
        else:
            assert_same(result, parse_attend_response(own, part))
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
def test_replies_that_are_alike_are_read_as_each_by_itself(dtype):
    """Though they differ in numbers, id, and how they were executed."""
    replies = replies_of(
        response_of(
            n,
            dtype,
            request_id=f"é{n}",
            execution=pb.Execution(model="m", queue_ms=n // 2 + 0.5, batch_size=3),
        )
        for n in range(9)
    )
    results = results_of(replies, [expected_response()] * 9)
    assert [result.request_id for result in results] == [f"é{n}" for n in range(9)]
    assert [result.execution.queue_ms for result in results] == [n // 2 + 0.5 for n in range(9)]


def test_the_first_of_those_that_are_alike_is_read_for_all(monkeypatch):
    replies = replies_of(response_of(n) for n in range(5))
    found = []
    find = _replies._find
    monkeypatch.setattr(_replies, "_find", lambda *given: found.append(given) or find(*given))
    results = [*parse_attend_responses([expected_response()] * 5, replies.records, replies.span)]
    assert (len(results), len(found)) == (5, 1)


def test_replies_of_one_size_that_are_not_alike():
    """And those that are read with another ExpectedResponse than the one before, or not at all."""
    other = response_of(5)
    other.output.shape[:] = [2, 4, 3]
    replies = replies_of([response_of(n) for n in (0, 1)] + [other] + [response_of(2)] * 4)
    expected, longer = expected_response(), expected_response(np.ones((2, 5, 4), np.float32))
    results = results_of(replies, [expected, expected, expected, None, expected, longer, expected])
    assert [type(result).__name__ for result in results] == [
        *("AttentionResult", "AttentionResult", "ServerError", "NoneType"),
        *("AttentionResult", "ServerError", "AttentionResult"),
    ]
    assert "expected 3 axes, a batch size of 2 and 5 rows" in str(results[5])


def test_what_cannot_be_read_is_the_servers_fault_of_that_reply_alone():
    raw = [response_of(n, request_id="ab").SerializeToString() for n in range(4)]
    raw[1] = raw[1].replace(b"ab", b"\xff\xff")  # no text
    framed = [
        b"\x08" + varint(n) + b"\x12" + varint(len(one)) + one for n, one in enumerate(raw, 1)
    ]
    [replies] = read_replies(b"".join(b"\x0a" + varint(len(frame)) + frame for frame in framed))
    first, wrong, *others = results_of(replies, [expected_response()] * 4)
    assert [result.request_id for result in (first, *others)] == ["ab"] * 3
    assert "could not be read" in str(wrong)
    assert wrong.__traceback__ is None
