"""Calls as such: deadlines, cancellation, ids, metadata and large messages."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest
from tests.contract import models
from tests.contract.arrays import assert_output, draw
from tests.contract.refusals import read_refusal

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_array, to_tensor
from polyhead_models.reference import attention as reference

TIMEOUT_S = 30
LONG = pb.AttendRequest(
    model="contract-wide",
    query=to_tensor(draw(1, 16_000, 64)),
    attn_weights=pb.AttnWeightsSelection(top_k=1),
)
"""Takes many seconds on a core."""


def small(**fields):
    return pb.AttendRequest(model="contract-plain", query=to_tensor(draw(1, 3, 16)), **fields)


def assert_serves(stub):
    """A small call is answered soon, so nothing long runs before it."""
    began = time.monotonic()
    stub.Attend(small(), timeout=TIMEOUT_S)
    assert time.monotonic() - began < 5


def test_a_deadline_ends_long_work(stub):
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Attend(LONG, timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3
    assert_serves(stub)


def test_a_deadline_within_a_stream(stub):
    request = pb.StreamedRequest(id=1, timeout_us=100_000, call=LONG)
    messages = iter([pb.AttendStreamRequest(requests=[request])])
    [reply] = [
        reply
        for message in stub.AttendStream(messages, timeout=TIMEOUT_S)
        for reply in message.replies
    ]
    assert reply.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]


def test_a_call_is_cancelled(stub):
    call = stub.Attend.future(LONG, timeout=TIMEOUT_S)
    threading.Timer(0.2, call.cancel).start()
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    assert_serves(stub)


def test_rows_are_cancelled(stub):
    request = pb.AttendRowsRequest(call=LONG, rows_per_block=100)
    blocks = stub.AttendRows(request, timeout=TIMEOUT_S)
    assert next(blocks).first_row == 0
    blocks.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(blocks)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert_serves(stub)


def test_a_request_within_a_stream_is_cancelled(stub):
    def messages():
        yield pb.AttendStreamRequest(requests=[pb.StreamedRequest(id=1, call=LONG)])
        yield pb.AttendStreamRequest(
            cancelled_ids=[1], requests=[pb.StreamedRequest(id=2, call=small())]
        )

    began = time.monotonic()
    replies = [
        reply.id
        for message in stub.AttendStream(messages(), timeout=TIMEOUT_S)
        for reply in message.replies
    ]
    assert replies == [2]
    assert time.monotonic() - began < 5


def test_request_ids_come_back(stub):
    assert stub.Attend(small(request_id="mine"), timeout=TIMEOUT_S).request_id == "mine"
    request = pb.AttendRowsRequest(call=small(request_id="rows"))
    [block] = stub.AttendRows(request, timeout=TIMEOUT_S)
    assert block.block.request_id == "rows"


def test_metadata_of_callers_do_no_harm(stub):
    metadata = [
        ("x-request-id", "from-a-proxy"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tenant", "blue"),
        ("tenant", "green"),
        ("trace-bin", b"\x00\xff\x80"),
    ]
    assert stub.Attend(small(), timeout=TIMEOUT_S, metadata=metadata).HasField("output")
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModel(pb.GetModelRequest(name="missing"), timeout=TIMEOUT_S, metadata=metadata)
    assert read_refusal(caught.value).reason == "MODEL_NOT_FOUND"


def test_messages_of_megabytes_both_ways(stub):
    query = draw(512, 64, 64)
    request = pb.AttendRequest(model="contract-wide", query=to_tensor(query))
    assert request.ByteSize() > 8 << 20
    response = stub.Attend(request, timeout=TIMEOUT_S)
    assert response.ByteSize() > 8 << 20
    output, _ = reference.attend(models.blocks()["contract-wide"], query[:2])
    assert_output(to_array(response.output)[:2], output)


def test_large_messages_within_a_stream(stub):
    query = draw(256, 32, 64)
    requests = [
        pb.StreamedRequest(
            id=number, call=pb.AttendRequest(model="contract-wide", query=to_tensor(query))
        )
        for number in (1, 2, 3)
    ]
    messages = iter([pb.AttendStreamRequest(requests=[request]) for request in requests])
    replies = {
        reply.id: reply.response
        for message in stub.AttendStream(messages, timeout=TIMEOUT_S)
        for reply in message.replies
    }
    assert set(replies) == {1, 2, 3}
    output, _ = reference.attend(models.blocks()["contract-wide"], query[-2:])
    for response in replies.values():
        assert_output(to_array(response.output)[-2:], output)


def test_answers_are_not_mixed(stub):
    def run(number, outcomes):
        query = draw(1, 2 + number % 5, 16, seed=number)
        request = pb.AttendRequest(
            model="contract-plain", query=to_tensor(query), request_id=str(number)
        )
        response = stub.Attend(request, timeout=TIMEOUT_S)
        expected, _ = reference.attend(models.blocks()["contract-plain"], query)
        got = to_array(response.output)
        outcomes[number] = (
            response.request_id == str(number)
            and got.shape == expected.shape
            and np.abs(got - expected).max() < 1e-4
        )

    outcomes = {}
    threads = [
        threading.Thread(target=lambda first=first: [run(first + i, outcomes) for i in range(25)])
        for first in range(0, 200, 25)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 200
    assert all(outcomes.values())


@pytest.mark.requires("refuses compressed requests")
def test_compressed_requests_are_refused(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Attend(small(), timeout=TIMEOUT_S, compression=grpc.Compression.Gzip)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
