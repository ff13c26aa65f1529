"""What is alike is found, read and written together as it would be one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyhead import ServerError
from polyhead import alike as alike_module
from polyhead._replies import AlikeResponse, AlikeResponses, parse_attend_response
from polyhead._requests import prepare_call
from polyhead._stream_messages import RESPONSE, read_replies
from polyhead.alike import alike, beside, numbered
from polyhead.framing import varint
from polyhead.results import Weights
from polyhead.tensors import to_tensor
from polyhead.v1 import attention_pb2 as pb

ids = st.integers(0, 2**64 - 1)
few_bytes = st.binary(min_size=2, max_size=2)


def as_rows(lines):
    return np.frombuffer(b"".join(lines), np.uint8).reshape(len(lines), -1)


@given(
    st.lists(st.tuples(few_bytes, few_bytes, few_bytes, few_bytes), min_size=1, max_size=9),
    st.integers(0, 9),
)
def test_rows_are_alike_up_to_the_first_that_is_not(lines, other):
    lines = [(b"ab", varying, b"cd", varied) for _, varying, _, varied in lines]
    if 0 < other < len(lines):
        lines[other] = (b"ab", b"..", b"cx", b"..")
    rows = as_rows([b"".join(line) for line in lines])
    expected = other if 0 < other < len(lines) else len(lines)
    assert len(alike(rows, [(2, 4), (6, 8)])) == expected


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
    last = 1 + len(written[0])
    found = numbered(data, begin, end, (1, last), (last + 1, len(lines[0])))
    size = len(written[0])
    count = next((n for n, own in enumerate(written) if len(own) != size), len(written))
    if len(written) < 4 or count < 4 or size > 9:
        assert found is None
    else:
        assert found is not None
        assert found[0] == numbers[:count]
        assert [row.tobytes() for row in found[1]] == lines[:count]


def test_no_more_are_compared_at_once_than_is_worth_it():
    data = b"".join(b"\x08" + varint(number) + b"x" for number in range(100))
    found = numbered(data, 0, 3, (1, 2), (2, 3))
    assert found is not None
    assert len(found[0]) == alike_module._MOST
    assert found[0] == [*range(alike_module._MOST)]


@pytest.mark.parametrize(
    ("number", "body"), [((0, 0), (2, 3)), ((1, 2), (0, 0))], ids=["no number", "no body"]
)
def test_without_a_number_or_a_body_nothing_is_alike(number, body):
    assert numbered(b"\x08\x01x\x08\x01x", 0, 3, number, body) is None


def test_columns_are_written_side_by_side():
    each = np.arange(6, dtype=np.uint16).reshape(3, 2)
    messages = beside(3, [b"<", np.frombuffer(b"abc", np.uint8).data, each.data, b">"])
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


def facts_of(query=QUERY):
    return prepare_call(query, model="m", need_weights=Weights(top_k=2)).facts


def replies_of(responses):
    numbered_ones = enumerate(responses, start=7)
    message = pb.AttendStreamResponse(
        replies=[pb.StreamedReply(id=number, response=each) for number, each in numbered_ones]
    )
    return read_replies(message.SerializeToString())


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
    responses = [
        response_of(
            n,
            dtype,
            request_id=f"é{n}",
            execution=pb.Execution(model="m", queue_ms=n // 2 + 0.5, batch_size=3),
        )
        for n in range(9)
    ]
    data, [replies] = replies_of(responses)
    assert (replies.ids, replies.outcome) == ([*range(7, 16)], RESPONSE)
    together = AlikeResponses(data, replies.start, replies.rows)
    facts = facts_of()
    results = [AlikeResponse(together, n).result(facts) for n in reversed(range(9))][::-1]
    assert together._num_alike == 9
    for result, response in zip(results, responses, strict=True):
        assert_same(result, parse_attend_response(facts, response.SerializeToString()))


def test_replies_of_one_size_that_are_not_alike():
    """And those that are read with other facts than the one before."""
    other = response_of(5)
    other.output.shape[:] = [2, 4, 3]
    responses = [response_of(0), response_of(1), other, response_of(2)]
    data, [replies] = replies_of(responses)
    assert replies.ids == [7, 8, 9, 10]
    together = AlikeResponses(data, replies.start, replies.rows)
    facts = facts_of()
    for place in (0, 1, 3):
        expected = parse_attend_response(facts, responses[place].SerializeToString())
        assert_same(together.result(place, facts), expected)
    with pytest.raises(ServerError, match="shape"):
        together.result(2, facts)
    longer = facts_of(np.ones((2, 5, 4), np.float32))
    with pytest.raises(ServerError, match="expected 3 axes, a batch size of 2 and 5 rows"):
        together.result(1, longer)
    assert_same(
        together.result(1, facts), parse_attend_response(facts, responses[1].SerializeToString())
    )


def test_a_name_that_is_no_text_is_the_servers_fault_of_that_reply_alone():
    raw = [response_of(n, request_id="ab").SerializeToString() for n in range(4)]
    raw[1] = raw[1].replace(b"ab", b"\xff\xff")
    framed = [b"\x08" + varint(n) + b"\x12" + varint(len(one)) + one for n, one in enumerate(raw)]
    data = b"".join(b"\x0a" + varint(len(frame)) + frame for frame in framed)
    data, [replies] = read_replies(data)
    together = AlikeResponses(data, replies.start, replies.rows)
    facts = facts_of()
    with pytest.raises(ServerError, match="could not be read"):
        together.result(1, facts)
    assert [together.result(n, facts).request_id for n in (0, 2, 3)] == ["ab"] * 3
