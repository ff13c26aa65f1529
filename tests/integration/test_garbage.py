"""A call that has ended leaves nothing for Python's collector: requests may hold megabytes."""

from __future__ import annotations

import gc

import grpc
import numpy as np
import pytest
from raw_calls import call, open_channel, request
from run_gate import numbered, server_in_threads
from streams import Stream

import polyhead
from polyhead.wire.tensors import to_tensor
from polyhead_server.call import AttentionCall, AttentionInputs, AttentionOutputs
from polyhead_server.codec.request import AttendRequest, AttendRowsRequest, StreamedRequests
from polyhead_server.engine.runs.cancellable import CancellableRun, RunCancelledError
from polyhead_server.errors import RequestError
from polyhead_server.scheduling.job import Job
from polyhead_server.services.attention.stream import RequestStream

VALUES = (AttentionCall, AttentionInputs, AttentionOutputs, RequestError, RunCancelledError)
REQUESTS = (AttendRequest, AttendRowsRequest, StreamedRequests, Job, CancellableRun, RequestStream)
HELD = VALUES + REQUESTS


@pytest.fixture
def uncollected():
    """Stop the collector, and return a function that lists what it would have collected."""

    def found():
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        kept = [type(thing).__name__ for thing in gc.garbage if isinstance(thing, HELD)]
        gc.garbage.clear()
        return kept

    gc.collect()
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()


NAN = to_tensor(np.full((2, 3, 16), np.nan, np.float32))


def query(width=16):
    return np.zeros((2, 500, width), np.float32)


def refused(client):
    with pytest.raises(polyhead.InvalidArgumentError):
        client.attend(query(15), model="plain")


def refused_for_its_numbers(client):
    with pytest.raises(polyhead.InvalidArgumentError):
        client.attend(np.full((2, 500, 16), np.nan, np.float32), model="plain")


def tiny_refused_for_its_numbers(client):
    with pytest.raises(polyhead.InvalidArgumentError):
        client.attend(np.full((1, 2, 16), np.nan, np.float32), model="plain")


def refused_rows(client):
    with pytest.raises(polyhead.InvalidArgumentError):
        list(client.attend_rows(np.full((2, 500, 16), np.nan, np.float32), model="plain"))


def half_read(client):
    with client.attend_rows(query(), model="plain", rows_per_block=10) as rows:
        next(rows)


CALLS = {
    "plain": lambda client: client.attend(query(), model="plain"),
    "all weights": lambda client: client.attend(query(), model="plain", need_weights=True),
    "one row": lambda client: client.attend(
        query(), model="plain", need_weights=polyhead.Weights(queries=3, top_k=2), need_output=False
    ),
    "lengths": lambda client: client.attend(query(), model="plain", kv_lengths=[9, 5]),
    "rows": lambda client: list(client.attend_rows(query(), model="plain", rows_per_block=100)),
    "half of the rows": half_read,
    "refused": refused,
    "refused for its numbers": refused_for_its_numbers,
    "tiny, and refused for its numbers": tiny_refused_for_its_numbers,
    "refused rows": refused_rows,
}


@pytest.mark.parametrize("make_call", CALLS.values(), ids=CALLS)
def test_a_call_that_has_ended_is_forgotten(client, uncollected, make_call):
    for _ in range(3):
        make_call(client)
    client.server_info()  # the one before has then ended at the server too
    assert uncollected() == []


def large(number=0.0, width=16):
    return request(query=to_tensor(np.full((2, 500, width), number, np.float32)))


STREAMS = {
    "answers": {1: request(), 2: large(), 3: request()},
    "tiny refusals": {1: request(model="missing"), 2: request(query=NAN), 3: request()},
    "refusals": {1: large(np.nan), 2: large(width=15), 3: large()},
}


@pytest.mark.parametrize("requests", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_has_ended_is_forgotten(server, client, uncollected, requests):
    with open_channel(server) as channel:
        for _ in range(3):
            with Stream(channel) as stream:
                stream.send(requests)
                assert len(stream.rest()) == 3
    client.server_info()
    assert uncollected() == []


def test_a_stream_that_ended_badly_is_forgotten(server, client, uncollected):
    with open_channel(server) as channel, Stream(channel) as stream:
        stream.send({1: large()})
        stream.send_bytes(b"\xff")
        with pytest.raises(grpc.RpcError):
            stream.replies(2)
    client.server_info()
    assert uncollected() == []


def test_cancelled_late_and_abandoned_requests_are_forgotten(repository, uncollected, gate, calls):
    with server_in_threads(repository) as server, open_channel(server) as channel:
        with Stream(channel) as stream:
            stream.send({1: numbered(1)})
            gate.wait_for_a_run()
            stream.send({2: numbered(2)})
            stream.send({3: numbered(3)}, timeout_us=1)
            stream.send({4: numbered(4)})
            assert set(stream.replies(1)) == {3}
            stream.send(cancelled=[1, 2])
            assert calls.code_of(1) == calls.code_of(2) == "CANCELLED"
        assert calls.code_of(4) == "CANCELLED"
        gate.opened.set()
        with Stream(channel) as stream:  # in its turn, when the first run has ended
            stream.send({5: numbered(5)})
            assert set(stream.rest()) == {5}
        assert call(channel, b"", "GetServerInfo")
        calls.lines.clear()
        assert uncollected() == []
