"""Overload, and clients that leave: with gates instead of sleeps."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from raw_calls import (
    SERVICE,
    WIDTH,
    assert_serves,
    call,
    channel_that_outlives,
    embeddings,
    open_channel,
    read_refusal,
    refused,
    request,
)
from run_gate import PATIENCE_S, numbered, server_in_threads

from polyhead.wire.tensors import to_tensor
from polyhead_server.running import running_server


def send(channel, number, timeout=PATIENCE_S):
    return channel.unary_unary(SERVICE + "Attend").future(
        numbered(number).SerializeToString(), timeout=timeout
    )


# ---------------------------------------------------------------- overload


@pytest.mark.parametrize("max_queue_size", [0, 2])
def test_a_full_queue_refuses_at_once_and_the_admitted_are_served(repository, gate, max_queue_size):
    with (
        server_in_threads(repository, max_queue_size=max_queue_size) as server,
        channel_that_outlives(server) as channel,
    ):
        running = send(channel, 1)
        gate.wait_for_a_run()
        others = [send(channel, number) for number in range(2, 32)]
        # While nothing can be served, all but the waiting requests are answered.
        ended = threading.Semaphore(0)
        for other in others:
            other.add_done_callback(lambda _: ended.release())
        for _ in range(30 - max_queue_size):
            assert ended.acquire(timeout=PATIENCE_S)
        gate.opened.set()
        answered = [running, *(other for other in others if other.exception() is None)]
        refusals = [read_refusal(e) for other in others if (e := other.exception()) is not None]
        assert len(answered) == 1 + max_queue_size
        assert len(refusals) == 30 - max_queue_size
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert refusal.retry_after_s > 0
        for answer in answered:
            assert answer.result()
        assert len(gate.begun) == 1 + max_queue_size


def test_health_and_descriptions_are_answered_under_load(repository, gate):
    with server_in_threads(repository) as server, open_channel(server) as channel:
        running = [send(channel, number) for number in range(1, 20)]
        gate.wait_for_arrivals(19)
        for method in ("ListModels", "GetServerInfo"):
            assert call(channel, b"", method)
        refused(channel, b"\xff")
        gate.opened.set()
        assert all(answer.result() for answer in running)
        assert_serves(channel)


def test_held_bytes_are_bounded(repository, gate):
    data = request(query=to_tensor(np.ones((1, 400, WIDTH), np.float32))).SerializeToString()
    with (
        server_in_threads(
            repository, max_queue_bytes=6 * (len(data) + 1024), max_peer_share=1.0
        ) as server,
        channel_that_outlives(server) as channel,
    ):
        attend, ended = channel.unary_unary(SERVICE + "Attend"), threading.Semaphore(0)
        answers = [attend.future(data, timeout=PATIENCE_S) for _ in range(10)]
        for answer in answers:
            answer.add_done_callback(lambda _: ended.release())
        for _ in range(7):
            assert ended.acquire(timeout=PATIENCE_S)
        gate.opened.set()
        refusals = [read_refusal(e) for a in answers if (e := a.exception()) is not None]
        assert len(refusals) == 7
        for refusal in refusals:
            assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
            assert "--max-queue-bytes" in refusal.message
            assert refusal.retry_after_s > 0


# ---------------------------------------------------------------- clients that leave


def test_cancelled_while_queued_never_runs(repository, gate, calls):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
    ):
        running = send(channel, 1)
        gate.wait_for_a_run()
        gate.wait_for_arrivals(1)
        leaving = send(channel, 2)
        gate.wait_for_arrivals(1)
        leaving.cancel()
        assert calls.code_of(2) == "CANCELLED"
        staying = send(channel, 3)
        gate.opened.set()
        assert running.result()
        assert staying.result()
        assert gate.begun == [1, 3]


def test_a_deadline_that_passes_in_the_queue_never_runs(repository, gate, calls):
    with (
        server_in_threads(repository) as server,
        channel_that_outlives(server) as channel,
    ):
        running = send(channel, 1)
        gate.wait_for_a_run()
        late = send(channel, 2, timeout=1)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert calls.code_of(2) in {"CANCELLED", "DEADLINE_EXCEEDED"}
        gate.opened.set()
        assert running.result()
        assert send(channel, 3).result()
        assert gate.begun == [1, 3]


@pytest.mark.parametrize("how", ["cancel", "close the connection", "deadline"])
def test_the_slot_is_freed_when_the_client_leaves_in_mid_run(repository, gate, calls, how):
    with (
        server_in_threads(repository, max_queue_size=0) as server,
        channel_that_outlives(server) as channel,
        open_channel(server) as leaving,
    ):
        grpc.channel_ready_future(leaving).result(timeout=PATIENCE_S)
        # time for the run to begin, on any machine; it never ends
        call = send(leaving, 1, timeout=3 if how == "deadline" else PATIENCE_S)
        gate.wait_for_a_run()
        if how == "cancel":
            call.cancel()
        elif how == "close the connection":
            leaving.close()
        assert calls.code_of(1) in {"CANCELLED", "DEADLINE_EXCEEDED"}
        # the thread is still at it; the slot is free very soon, for what passes the gate
        while (error := send(channel, 0).exception()) is not None:
            assert read_refusal(error).reason == "OVERLOADED"
        gate.opened.set()
        assert send(channel, 2).result()
        assert gate.begun == [1, 2]


def test_clients_that_leave_at_random_leave_nothing_behind(repository, caplog):
    data = request(query=to_tensor(embeddings(8, 128, WIDTH))).SerializeToString()
    with (
        running_server(repository, threads=1, max_queue_size=50) as server,
        channel_that_outlives(server) as channel,
    ):
        attend = channel.unary_unary(SERVICE + "Attend")
        for round_number in range(10):
            answers = [attend.future(data, timeout=PATIENCE_S) for _ in range(20)]
            answers[round_number].exception()  # some have run, some run, some wait
            for answer in answers:
                answer.cancel()
        with ThreadPoolExecutor(4) as pool:  # the slot and the whole queue are there again
            assert all(pool.map(lambda _: call(channel, data), range(50)))
    assert "never retrieved" not in caplog.text
    assert not [r for r in caplog.records if r.name == "asyncio" or r.exc_info]


# ---------------------------------------------------------------- stopping


def stop_in_thread(context):
    stopping = threading.Thread(target=context.__exit__, args=(None, None, None))
    stopping.start()
    return stopping


def test_draining_loses_nothing_that_waits_or_runs(repository, gate, calls):
    context = server_in_threads(repository, grace_s=PATIENCE_S)
    with open_channel(context.__enter__()) as channel:
        answers = [send(channel, number) for number in range(1, 11)]
        gate.wait_for_a_run()
        gate.wait_for_arrivals(10)
        stopping = stop_in_thread(context)
        gate.opened.set()
        assert all(answer.result() for answer in answers)
        stopping.join()
    assert sorted(gate.begun) == [*range(1, 11)]


def test_requests_that_outlast_the_grace_are_ended_and_never_run(repository, gate, calls, caplog):
    context = server_in_threads(repository, grace_s=0.1)
    with open_channel(context.__enter__()) as channel:
        answers = [send(channel, number) for number in range(1, 5)]
        gate.wait_for_a_run()
        gate.wait_for_arrivals(4)
        stopping = stop_in_thread(context)
        codes = {answer.exception().code().name for answer in answers}
        assert codes <= {"CANCELLED", "UNAVAILABLE"}
        assert stopping.is_alive()  # for the thread that cannot be ended in mid-node
        # gRPC ends the calls, perhaps before the server's own code notices
        assert {calls.code_of(number) for number in range(1, 5)} == {"CANCELLED"}
        gate.opened.set()
        stopping.join()
    assert len(gate.begun) == 1
    assert not [record for record in caplog.records if record.exc_info]
