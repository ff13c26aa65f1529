"""Requests of a stream that run inline: which of them form a group, and what the group does."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import numpy as np
import pytest
from fake_requests import NO_DEADLINE, stream_plans
from gated_scheduler import PASSED
from hypothesis import strategies as st

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.protobuf import varint
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_server.call import AttentionOutputs, Timing
from polyhead_server.codec.message_format import STREAM_ID
from polyhead_server.codec.request import StreamedRequests
from polyhead_server.errors import DeadlineError, InvalidRequestError
from polyhead_server.limits import InlineLimits
from polyhead_server.scheduling.job import RequestJob
from polyhead_server.services.attention.inline_batcher import (
    InlineBatcher,
    StreamedJob,
    find_group,
)
from polyhead_server.services.attention.stream_messages import read_stream_message

DTYPES = [pb.DATA_TYPE_FLOAT, pb.DATA_TYPE_FLOAT16, pb.DATA_TYPE_BFLOAT16, pb.DATA_TYPE_DOUBLE]
TIMING = Timing(1.5, 2.5, 4)
MESSAGE_BYTES = 1 << 20


@pytest.fixture(scope="module")
def cross_plans(models):
    return stream_plans(models["cross"])


@pytest.fixture
def plans(gated):
    return stream_plans(gated)


def call_of(number, **fields):
    """Make a request of the model `plain`, which is recognised by its number."""
    query = to_tensor(np.full((1, 2, 8), number, np.float32))
    return pb.AttendRequest(**({"model": "m", "query": query} | fields))


def random_call(seed, dtype, output_dtype):
    """Make a request of the model `cross` with two sequences."""
    rng = np.random.default_rng(seed)
    shapes = {"query": (2, 3, 8), "key": (2, 5, 6), "value": (2, 5, 4)}
    arrays = {name: to_tensor(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return pb.AttendRequest(model="m", output_dtype=output_dtype, **arrays)


def message_of(calls, first_id=1, timeouts_us=()):
    """Write and read a message of these calls, whose ids count up from ``first_id``."""
    streamed = [
        pb.StreamedRequest(id=first_id + index, timeout_us=900, call=call)
        for index, call in enumerate(calls)
    ]
    for request, timeout_us in zip(streamed, timeouts_us, strict=False):
        request.timeout_us = timeout_us
    return read_stream_message(pb.AttendStreamRequest(requests=streamed).SerializeToString())


def match_of(plans, message, index=0):
    """Recognise one request of a message."""
    return plans.match(message.data, *message.frames[index], log_fields={})


def requests_of(match):
    return StreamedRequests(match, match.value.call, match.column(STREAM_ID))


def group_of(plans, message, index=0, max_count=64, message_bytes=MESSAGE_BYTES, **limits):
    """Find the group of the request at ``index``; ``limits`` are fields of InlineLimits."""
    match = match_of(plans, message, index)
    return requests_of(find_group(match, max_count, InlineLimits(**limits), message_bytes))


def ids(*numbers):
    return [varint(number) for number in numbers]


# ---------------------------------------------------------------- a group's arrays and responses


@hypothesis.settings(max_examples=50)
@hypothesis.given(
    count=st.integers(2, 20),
    first_id=st.sampled_from([1, 100, 127, 16380, 2**40, 2**62, 2**63 - 4, 2**64 - 30]),
    dtype=st.sampled_from(DTYPES),
    output_dtype=st.sampled_from([0, *DTYPES]),
)
def test_a_group_is_read_and_answered_as_its_requests_are_one_by_one(
    cross_plans, count, first_id, dtype, output_dtype
):
    calls = [random_call(n, dtype, output_dtype) for n in range(count)]
    message = message_of(calls, first_id)
    assert len(message.frames) == count
    index = 0
    while index < count:
        group = group_of(cross_plans, message, index)
        numbers = range(first_id + index, first_id + index + group.count)
        assert group.ids == ids(*numbers)
        # it ends only where ids get longer, or have ten bytes, which may be more than 64 bits
        end, id_bytes = index + group.count, len(group.ids[0])
        assert end == count or id_bytes == 10 or len(varint(first_id + end)) > id_bytes
        singles = [
            requests_of(match_of(cross_plans, message, index + n)) for n in range(group.count)
        ]
        for name, array in group.arrays().items():
            expected = np.concatenate([single.arrays()[name] for single in singles])
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)
        assert_responses_are_those_of(group, singles)
        index = end


def assert_responses_are_those_of(group, singles):
    """Compare the response of a group of requests of two sequences with theirs, joined."""
    rng = np.random.default_rng(len(singles))
    size = 2 * len(singles)
    outputs = AttentionOutputs(
        rng.standard_normal((size, 3, 8)).astype(np.float32),
        rng.random((size, 2, 3, 5), np.float32),
        rng.integers(0, 5, (size, 2, 3, 5), np.int32),
        is_fused=True,
    )
    executed_by = ("m", 3, "CPUExecutionProvider")
    response = group.respond(executed_by, outputs, TIMING)
    own = [
        single.respond(executed_by, outputs.part(first, first + 2), TIMING).joined()
        for first, single in zip(range(0, size, 2), singles, strict=True)
    ]
    assert response.joined() == b"".join(own)
    assert response.size == len(response.joined())


def test_parts_of_a_group_have_the_arrays_and_ids_of_their_requests(plans):
    group = group_of(plans, message_of([call_of(n) for n in range(5)]))
    singles = group.split()
    assert [single.ids for single in singles] == [ids(n) for n in (1, 2, 3, 4, 5)]
    for number, single in enumerate(singles):
        assert (single.arrays()["query"] == number).all()
        assert single.nbytes == group.nbytes / 5
    for removed, parts in ((1, [[2, 3, 4, 5]]), (2, [[1], [3, 4, 5]]), (5, [[1, 2, 3, 4]])):
        rest = group.without(varint(removed))
        assert [part.ids for part in rest] == [ids(*numbers) for numbers in parts]
        for part, numbers in zip(rest, parts, strict=True):
            assert (part.arrays()["query"][:, 0, 0] + 1).tolist() == numbers
    assert singles[0].without(varint(1)) == []


def test_requests_do_not_keep_the_message_that_they_came_in(plans):
    message = message_of([call_of(n) for n in range(20)])
    memory = np.frombuffer(message.data, np.uint8)
    for requests in (group_of(plans, message, max_count=4), requests_of(match_of(plans, message))):
        assert len(requests.match.data) == requests.nbytes < len(message.data) / 2
        assert not np.shares_memory(requests.arrays()["query"], memory)


# ---------------------------------------------------------------- which requests form a group


OTHERS = {
    "model": call_of(9, model="n"),
    "shape": call_of(9, query=to_tensor(np.ones((2, 1, 8), np.float32))),
    "dtype": call_of(9, attn_weights=pb.AttnWeightsSelection(dtype=pb.DATA_TYPE_FLOAT16)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_request_of_another_template_ends_a_group(plans, other):
    selection = pb.AttnWeightsSelection(dtype=pb.DATA_TYPE_BFLOAT16)
    fields = {"attn_weights": selection} if other.HasField("attn_weights") else {}
    calls = [call_of(n, **fields) for n in range(4)]
    message = message_of([*calls, other, call_of(5, **fields)])
    assert len({end - start for start, end in message.frames}) == 1
    assert group_of(plans, message).ids == ids(1, 2, 3, 4)
    assert group_of(plans, message, 1).ids == ids(2, 3, 4)
    assert group_of(plans, message, 3).ids == ids(4)
    assert group_of(plans, message, 4).ids == ids(5)


def test_another_timeout_ends_a_group(plans):
    message = message_of([call_of(n) for n in range(5)], timeouts_us=[800, 800, 801, 801, 800])
    assert group_of(plans, message).ids == ids(1, 2)
    assert group_of(plans, message, 2).ids == ids(3, 4)


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": "r"},
        {"kv_lengths": [1]},
        {"attn_mask": to_tensor(np.ones((2, 2), bool))},
        {"attn_weights": pb.AttnWeightsSelection(top_k=1)},
    ],
)
def test_requests_that_need_their_own_run_or_response_form_no_group(plans, fields):
    message = message_of([call_of(n, **fields) for n in range(4)])
    assert group_of(plans, message).ids == ids(1)


def test_a_group_fits_the_limits(plans):
    message = message_of([call_of(n) for n in range(20)])
    cost = match_of(plans, message).value.multiply_adds
    assert group_of(plans, message).count == 20
    assert group_of(plans, message, max_count=7).count == 7
    for max_count in (0, 1):
        assert group_of(plans, message, max_count=max_count).count == 1
    # the last request may exceed the limit, as one run alone may
    assert group_of(plans, message, batch_multiply_adds=5 * cost).count == 5
    assert group_of(plans, message, batch_multiply_adds=5 * cost + 1).count == 6
    assert group_of(plans, message, batch_multiply_adds=1).count == 1
    size = match_of(plans, message).value.plan.size.nbytes + 1024
    assert group_of(plans, message, message_bytes=6 * size).count == 6
    assert group_of(plans, message, message_bytes=6 * size - 1).count == 5
    assert group_of(plans, message, message_bytes=1).count == 1


def test_a_group_of_several_runs_fills_them(gated):
    gated.batching = replace(gated.batching, max_tokens=16, solo_above_tokens=16)  # 8 requests
    plans = stream_plans(gated)
    message = message_of([call_of(n) for n in range(20)])
    assert group_of(plans, message).ids == ids(*range(1, 17))
    assert group_of(plans, message, 16).ids == ids(17, 18, 19, 20)
    assert group_of(plans, message, 13).ids == ids(*range(14, 21))


# ---------------------------------------------------------------- the batcher


@pytest.fixture
def waiting(gated, plans, make_scheduler):
    """Make a batcher in which groups of numbered requests wait; their ids are their numbers."""

    def waiting(*groups, deadline=NO_DEADLINE, **limits):
        batcher = InlineBatcher(make_scheduler(), InlineLimits(**limits))
        for numbers in groups:
            message = message_of([call_of(abs(number)) for number in numbers], abs(numbers[0]))
            requests = group_of(plans, message)
            assert requests.count == len(numbers)
            batcher.add(StreamedJob(requests.match.value, requests, deadline))
        return batcher

    return waiting


def answered(results):
    """Return the ids of each result, and check that each request has its own response."""
    found = []
    for job, response in results:
        replies = pb.AttendStreamResponse.FromString(response.joined()).replies
        assert ids(*(reply.id for reply in replies)) == job.requests.ids
        found.append([reply.id for reply in replies])
    return found


def test_all_that_waits_runs_oldest_first_in_one_batch(waiting, gated):
    batcher = waiting([1, 2, 3], [7], [4, 5])
    assert len(batcher) == 6
    assert varint(2) in batcher
    assert varint(6) not in batcher
    assert answered(batcher.run()) == [[1, 2, 3], [7], [4, 5]]
    assert gated.batches == [[1, 2, 3, 7, 4, 5]]
    assert len(batcher) == batcher.num_bytes == 0
    assert not answered(batcher.run())


def test_each_request_gets_the_outputs_of_its_own_arrays(waiting, models):
    batcher = waiting([1, 2, 3], [7])
    outputs = {}
    for _, response in batcher.run():
        for reply in pb.AttendStreamResponse.FromString(response.joined()).replies:
            outputs[reply.id] = to_array(reply.response.output)
    assert list(outputs) == [1, 2, 3, 7]
    for number, output in outputs.items():
        query = np.full((1, 2, 8), number, np.float32)
        feeds = {"query": query, "key": query, "value": query}
        (expected,) = models["plain"].run_graph(["output"], feeds, None)
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cancelled", "left"), [(1, [[2, 3]]), (2, [[1], [3]]), (3, [[1, 2]])])
def test_a_cancelled_member_of_a_group_leaves_the_others(waiting, gated, cancelled, left):
    batcher = waiting([1, 2, 3], [7])
    num_bytes = batcher.num_bytes
    batcher.cancel(varint(cancelled))
    assert varint(cancelled) not in batcher
    assert len(batcher) == 3
    assert batcher.num_bytes == num_bytes * 3 / 4
    assert sorted(answered(batcher.run())) == [*left, [7]]
    assert cancelled not in gated.begun


def test_a_cancelled_single_request_does_not_run(waiting, gated):
    batcher = waiting([1])
    batcher.cancel(varint(1))
    assert len(batcher) == batcher.num_bytes == 0
    assert not answered(batcher.run())
    assert not gated.begun


def test_one_turn_runs_a_limited_number_of_requests(waiting, gated):
    batcher = waiting([1, 2], [3], [4, 5], [6], batch_requests=3)
    assert answered(batcher.run()) == [[1, 2], [3]]
    assert answered(batcher.run()) == [[4, 5], [6]]
    assert gated.batches == [[1, 2, 3], [4, 5, 6]]


def test_one_turn_runs_a_limited_number_of_multiply_adds(waiting, gated, plans):
    cost = match_of(plans, message_of([call_of(1)])).value.multiply_adds
    batcher = waiting([1], [2], [3], [4], [5], batch_multiply_adds=2 * cost)
    assert [answered(batcher.run()) for _ in range(3)] == [[[1], [2]], [[3], [4]], [[5]]]


def test_requests_that_run_alone_count_for_more(waiting, gated, plans):
    """Each of their runs has its own cost, which multiply-adds do not show."""
    batcher = waiting(batch_multiply_adds=20_000, min_multiply_adds=10_000)
    for number in range(1, 5):
        match = match_of(plans, message_of([call_of(number)], first_id=number))
        job = StreamedJob(match.value, requests_of(match), NO_DEADLINE)
        assert job.multiply_adds < 5_000
        job.batch_key = None
        batcher.add(job)
    assert [answered(batcher.run()) for _ in range(2)] == [[[1], [2]], [[3], [4]]]
    assert gated.batches == [[1], [2], [3], [4]]


@pytest.mark.parametrize("invalid", [1, 2, 4])
def test_an_invalid_request_of_a_group_fails_alone(waiting, gated, plans, invalid):
    calls = [call_of(np.nan if n == invalid else n) for n in range(1, 5)]
    requests = group_of(plans, message_of(calls))
    assert requests.count == 4
    batcher = waiting()
    batcher.add(StreamedJob(requests.match.value, requests, NO_DEADLINE))
    results = list(batcher.run())
    assert [job.requests.ids for job, _ in results] == [ids(n) for n in (1, 2, 3, 4)]
    for number, (_, result) in enumerate(results, 1):
        assert isinstance(result, InvalidRequestError) == (number == invalid)
    good = [result for result in results if result[0].requests.ids != ids(invalid)]
    assert answered(good) == [[n] for n in (1, 2, 3, 4) if n != invalid]
    assert gated.statistics.totals().fail.count == 1


def test_each_request_of_a_group_whose_deadline_has_passed_fails(waiting, gated):
    results = list(waiting([1, 2, 3], deadline=PASSED).run())
    assert [job.requests.ids for job, _ in results] == [ids(1), ids(2), ids(3)]
    assert all(isinstance(result, DeadlineError) for _, result in results)
    assert not gated.begun


def test_statistics_count_each_request_of_a_group(waiting, gated):
    list(waiting([1, 2, 3], [7]).run())
    totals = gated.statistics.totals()
    assert (totals.inference_count, totals.execution_count, totals.success.count) == (4, 1, 4)


# ---------------------------------------------------------------- its jobs


def test_a_job_of_a_group_has_the_size_of_all_its_requests(plans):
    requests = group_of(plans, message_of([call_of(n) for n in range(5)]))
    prepared = requests.match.value
    job = StreamedJob(prepared, requests, NO_DEADLINE)
    assert isinstance(job, RequestJob)
    assert (job.batch_size, job.num_tokens) == (5, 10)
    assert job.multiply_adds == 5 * prepared.multiply_adds
    single = job.with_requests(requests.split()[0])
    assert (single.batch_size, single.num_tokens, single.deadline) == (1, 2, NO_DEADLINE)
    assert single.batch_key == job.batch_key
