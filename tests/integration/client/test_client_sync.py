"""Client with a failing server: every failure is raised as a PolyheadError, not as gRPC's."""

from __future__ import annotations

import copy
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from fake_server import LIMIT, NOT_SERVING, SERVING, FakeServer, start

import polyhead

QUERY = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_calls_reach_their_methods(connected):
    assert [model.name for model in connected.models()] == ["a", "b"]
    assert connected.model("c", 4).version == 4
    assert connected.server_info().version == "9"
    result = connected.attend(QUERY, model="echo", request_id="me")
    np.testing.assert_array_equal(result.output, QUERY)
    assert result.request_id == "me"


def test_a_request_larger_than_the_default_retry_buffer_is_retried(fake, connected):
    query = np.ones((1, 1000, 400), np.float32)  # 1.6 MB, and that buffer is 256 KiB
    result = connected.attend(query, model="twice-unavailable")
    assert result.output.shape == query.shape
    assert fake.calls == 3


def test_other_failures_are_not_retried(fake, connected):
    with pytest.raises(polyhead.ServerError, match="internal error") as caught:
        connected.attend(QUERY, model="fails")
    assert fake.calls == 1
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_a_request_over_the_limit_names_sizes_and_flag(connected):
    with pytest.raises(polyhead.ResourceExhaustedError) as caught:
        connected.attend(np.ones((1, 1000, 1000), np.float32), model="echo")
    assert f"{LIMIT:,}" in str(caught.value)
    assert "--max-request-bytes" in str(caught.value)
    assert 4_000_000 < int(caught.value.figures["got"]) < 4_000_100


def test_a_response_over_the_limit_names_sizes_and_flag(connected):
    with pytest.raises(polyhead.ResourceExhaustedError, match="--max-response-bytes") as caught:
        connected.attend(QUERY, model="large")
    assert caught.value.reason == "OUTPUT_TOO_LARGE"


def test_a_deadline_passes(connected):
    with pytest.raises(polyhead.DeadlineExceededError, match=r"within 0\.2 s"):
        connected.attend(QUERY, model="wait", timeout=0.2)


def test_calls_without_a_timeout_use_the_clients(fake):
    with (
        polyhead.Client(fake.target, timeout=0.2) as client,
        pytest.raises(polyhead.DeadlineExceededError, match=r"within 0\.2 s"),
    ):
        client.attend(QUERY, model="wait")


def test_a_reply_without_an_array(connected):
    with pytest.raises(polyhead.ServerError, match="holds no array"):
        connected.attend(QUERY, model="no-array")


def test_bad_arguments_are_not_sent(fake, connected):
    with pytest.raises(polyhead.InvalidArgumentError):
        connected.attend(QUERY[0], model="echo")
    with pytest.raises(polyhead.InvalidArgumentError):
        connected.attend(QUERY, model="echo", timeout=0)
    assert fake.calls == 0


def test_metadata_travels_with_every_call(fake):
    with polyhead.Client(fake.target, metadata={"Authorization": "Bearer x"}) as client:
        client.attend(QUERY, model="echo")
    assert fake.metadata["authorization"] == "Bearer x"


def test_many_threads_share_one_client(connected):
    def call(number):
        query = np.full((1, 2, 3), number, np.float32)
        return connected.attend(query, model="echo", request_id=str(number))

    with ThreadPoolExecutor(8) as threads:
        for number, result in enumerate(threads.map(call, range(64))):
            assert result.request_id == str(number)
            assert (result.output == number).all()


def test_a_closed_client_raises_client_closed_error(fake):
    with polyhead.Client(fake.target) as client:
        client.models()
    for call in (client.models, client.is_ready, lambda: client.attend(QUERY, model="echo")):
        with pytest.raises(polyhead.ClientClosedError, match="closed"):
            call()
    client.close()  # closing twice is allowed


def test_closing_cancels_calls_under_way(fake):
    client = polyhead.Client(fake.target, timeout=30)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.attend, QUERY, model="wait")
        assert fake.entered.wait(30)
        client.close()
        with pytest.raises(polyhead.RequestCancelledError):
            call.result(30)
    assert fake.cancelled.wait(30)


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_missing_server_is_reported_within_seconds():
    target = f"127.0.0.1:{unused_port()}"
    with polyhead.Client(target) as client:
        started = time.monotonic()
        with pytest.raises(polyhead.ServerUnavailableError, match=target):
            client.models()
        assert not client.is_ready()
    assert time.monotonic() - started < 10


def test_a_server_without_the_service_is_named():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with polyhead.Client(f"127.0.0.1:{port}") as client:
        for call in (client.models, client.is_ready):
            with pytest.raises(polyhead.UnsupportedOperationError, match="a polyhead server"):
                call()
    server.stop(None).wait()


def test_readiness_comes_from_the_health_service(fake, connected):
    assert connected.is_ready()
    fake.health = NOT_SERVING
    assert not connected.is_ready()
    with pytest.raises(polyhead.DeadlineExceededError, match=r"not ready within 0\.3 s"):
        connected.wait_until_ready(timeout=0.3)
    fake.health = SERVING
    connected.wait_until_ready()


def test_waiting_for_a_server_that_starts_later():
    port = unused_port()
    fake = FakeServer()
    fake.health = NOT_SERVING
    with polyhead.Client(f"127.0.0.1:{port}") as client:
        assert not client.is_ready()
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(client.wait_until_ready, timeout=60)
            server = start(fake, f"127.0.0.1:{port}")
            assert not waiting.done()
            fake.health = SERVING
            waiting.result(60)
    server.stop(None).wait()


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_clients_are_not_copied(name, copied):
    client = getattr(polyhead, name)("localhost:1")
    with pytest.raises(TypeError, match=f"make one {name} in each process"):
        copied(client)
