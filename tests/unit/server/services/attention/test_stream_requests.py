"""Requests of an AttendStream: groups, cancelled requests, ids that are used twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_connection import numbered_call, numbered_calls
from fake_requests import NEVER_INLINE, attend_job
from gated_scheduler import begun, numbers_of, settle

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array
from polyhead_server.limits import InlineLimits

# ---------------------------------------------------------------- groups


def test_requests_of_one_template_run_as_one_batch_and_each_gets_its_own_response(
    streaming_inline, gated
):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(*range(1, 8)))
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert gated.batches == [[1, 2, 3, 4, 5, 6, 7]]
    assert connection.ids == [[1, 2, 3, 4, 5, 6, 7]]
    gated.gate.set()
    for reply in connection.replies:
        assert reply.response.execution.batch_size == 7
        ((expected, _),) = attend_job(gated, numbers_of(reply.id)).make_batch(()).run()
        np.testing.assert_allclose(
            to_array(reply.response.output), expected.output, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("invalid", [1, 3, 7])
def test_an_invalid_request_of_a_group_fails_alone(streaming_inline, invalid):
    async def scenario(connection, serving, draining):
        connection.send({n: numbered_call(np.nan if n == invalid else n) for n in range(1, 8)})
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert [reply.id for reply in connection.replies] == [1, 2, 3, 4, 5, 6, 7]
    for reply in connection.replies:
        assert reply.HasField("error") == (reply.id == invalid)
    assert "NaN" in connection.replies[invalid - 1].error.message


@pytest.mark.parametrize("is_inline", [False, True])
def test_an_id_that_is_used_twice_in_one_message_is_refused(streaming, gated, is_inline):
    async def scenario(connection, serving, draining):
        twice = [pb.StreamedRequest(id=n, call=numbered_call(n)) for n in (1, 2, 3, 2, 4)]
        connection.send_bytes(pb.AttendStreamRequest(requests=twice).SerializeToString())
        connection.end()
        await serving

    gated.gate.set()
    limits = InlineLimits() if is_inline else NEVER_INLINE
    connection, _ = streaming(scenario, inline_limits=limits)
    assert sorted(reply.id for reply in connection.replies) == [1, 2, 2, 3, 4]
    (refused,) = (reply for reply in connection.replies if reply.HasField("error"))
    assert refused.id == 2
    assert "without an unanswered request" in refused.error.message


def test_a_group_runs_in_batches_that_the_model_allows(streaming_inline, gated):
    gated.batching = replace(gated.batching, max_tokens=6, solo_above_tokens=6)

    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(*range(1, 9)))  # of two tokens each
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert gated.batches == [[1, 2, 3], [4, 5, 6], [7, 8]]
    sizes = [reply.response.execution.batch_size for reply in connection.replies]
    assert sizes == [3, 3, 3, 3, 3, 3, 2, 2]


def test_a_request_in_a_thread_does_not_hold_up_inline_requests(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send({1: numbered_call(1, length=9)})
        await begun(gated)
        connection.send({2: numbered_call(2), 3: numbered_call(3, length=9), 4: numbered_call(4)})
        await settle()
        assert connection.ids == [[2, 4]]
        gated.gate.set()
        connection.end()
        await serving

    limits = InlineLimits(max_moved_bytes=500)  # 9 tokens are 864 bytes, 2 are 192
    connection, _ = streaming(scenario, inline_limits=limits)
    assert sorted(connection.answered) == [1, 2, 3, 4]


# ---------------------------------------------------------------- cancellation


def test_the_id_of_a_cancelled_request_is_free_at_once(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(1))
        await begun(gated)
        connection.send({1: numbered_call(2)}, cancelled=[1])
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert connection.ids == [[1]]
    assert gated.begun == [1, 2]


def test_a_cancelled_request_leaves_the_queue_and_the_stream(streaming, gated):
    async def scenario(connection, serving, draining):
        connection.send(numbered_calls(1))
        await begun(gated)
        connection.send(numbered_calls(2, 3))
        await settle()
        connection.send(cancelled=[2, 77])
        await settle()
        connection.send({2: numbered_call(4)})  # the id is free again
        await settle()
        gated.gate.set()
        connection.end()
        await serving

    connection, _ = streaming(scenario)
    assert sorted(connection.answered) == [1, 2, 3]
    assert sorted(gated.begun) == [1, 3, 4]


def test_a_cancelled_member_of_a_group_leaves_the_others(streaming_inline, gated):
    async def scenario(connection, serving, draining):
        connection.can_write.clear()
        connection.send(numbered_calls(1, 2))
        await settle()
        # these wait until the client takes the response
        connection.send(numbered_calls(*range(3, 9)))
        await settle()
        connection.send(numbered_calls(20), cancelled=[4, 8])
        connection.send({4: numbered_call(24)})  # the id is free again
        await settle()
        assert gated.begun == [1, 2]
        connection.can_write.set()
        connection.end()
        await serving

    connection, _ = streaming_inline(scenario)
    assert sorted(connection.answered) == [1, 2, 3, 4, 5, 6, 7, 20]
    assert sorted(gated.begun) == [1, 2, 3, 5, 6, 7, 20, 24]
