"""The metrics of a real server: what is counted, how many series there are, who may ask."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from http.client import HTTPConnection

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import polyhead
from polyhead_server.errors import StartupError
from polyhead_server.limits import MetricsLimits
from polyhead_server.running import running_server

QUERY = np.ones((2, 3, 6), np.float32)
ATTEND = {
    "grpc_type": "unary",
    "grpc_service": "polyhead.v1.AttentionService",
    "grpc_method": "Attend",
}
MODEL = {"model": "river-bank", "version": "1"}
LIMITS = MetricsLimits(connections=3, request_s=1.0, request_bytes=2048, max_share=1.0)


@pytest.fixture(scope="module")
def metered():
    with running_server(metrics_port=0, metrics_limits=LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def client(metered):
    with polyhead.Client(metered.target) as connected:
        yield connected


def fetch(port, method="GET", path="/metrics", **headers):
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type"), response.read().decode()
    finally:
        connection.close()


def samples(port):
    """The value of each series by its name and labels, as Prometheus' own parser reads them."""
    status, _, text = fetch(port)
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Growth:
    """How much series have grown since this was made."""

    def __init__(self, port):
        self._port = port
        self._before = samples(port)

    def __call__(self, name, **labels):
        key = name, frozenset(labels.items())
        return samples(self._port)[key] - self._before.get(key, 0.0)


def test_calls_are_counted_under_the_names_of_go_grpc_prometheus(metered, client):
    grown = Growth(metered.metrics_port)
    client.attend(QUERY, model="river-bank")
    with pytest.raises(polyhead.ModelNotFoundError):
        client.attend(QUERY, model="made-up")
    assert grown("grpc_server_started_total", **ATTEND) == 2
    assert grown("grpc_server_handled_total", **ATTEND, grpc_code="OK") == 1
    assert grown("grpc_server_handled_total", **ATTEND, grpc_code="NotFound") == 1
    assert grown("grpc_server_msg_received_total", **ATTEND) == 2
    assert grown("grpc_server_msg_sent_total", **ATTEND) == 1
    assert grown("grpc_server_handling_seconds_count", **ATTEND) == 2
    refused = {label: ATTEND[label] for label in ("grpc_service", "grpc_method")}
    refused |= {"grpc_code": "NotFound", "reason": "MODEL_NOT_FOUND"}
    assert grown("polyhead_refused_total", **refused) == 1


def test_a_model_has_its_requests_tokens_batches_and_times(metered, client):
    grown = Growth(metered.metrics_port)
    for _ in range(3):  # the third runs on arrays that stay in place
        client.attend(QUERY, model="river-bank")
    list(client.attend_rows(QUERY, model="river-bank", rows_per_block=2))  # in two blocks
    assert grown("polyhead_requests_total", **MODEL, outcome="answered") == 5
    assert grown("polyhead_tokens_total", **MODEL) == 4 * 6
    assert grown("polyhead_request_seconds_count", **MODEL) == 5
    assert grown("polyhead_batch_size_sum", **MODEL) == 5 * 2
    assert grown("polyhead_batch_size_bucket", **MODEL, le="1.0") == 0
    assert grown("polyhead_batch_size_bucket", **MODEL, le="2.0") == 5
    assert grown("polyhead_compute_seconds_total", **MODEL, phase="infer") > 0


def test_load_memory_and_limits_are_there(metered):
    now = samples(metered.metrics_port)
    value = {name: value for (name, labels), value in now.items() if not labels}
    assert value["polyhead_queue_requests"] == value["polyhead_runs"] == 0
    assert value["polyhead_reserved_bytes"] == 0
    assert value["polyhead_queue_requests_limit"] == 256
    assert value["process_resident_memory_bytes"] > 10e6


def test_names_that_callers_make_up_add_no_series(metered, client):
    def call_all(number):
        channel.unary_unary(f"/made.up.Service{number}/Do")(b"", timeout=10)

    def attempt(numbers):
        requests = ({"query": QUERY, "model": f"made-up-{n}"} for n in numbers)
        for error in client.attend_many(requests, return_exceptions=True, max_in_flight=512):
            assert isinstance(error, polyhead.ModelNotFoundError)
        for number in (numbers[0], numbers[-1]):
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                call_all(number)

    with grpc.insecure_channel(metered.target) as channel:
        attempt(range(2))
        before = samples(metered.metrics_port)
        attempt(range(2, 10_000))
    after = samples(metered.metrics_port)
    # the stream of the requests may have ended in between, which has a series
    assert len(after) <= len(before) + 1
    assert not any("made" in str(key) for key in after)
    unknown = {"grpc_type": "unary", "grpc_service": "unknown", "grpc_method": "unknown"}
    key = "grpc_server_started_total", frozenset(unknown.items())
    assert after[key] - before[key] == 2


def test_openmetrics_is_served_on_request(metered):
    _, content_type, text = fetch(
        metered.metrics_port, Accept="application/openmetrics-text; version=1.0.0"
    )
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405)]
)
def test_nothing_else_is_answered(metered, method, path, status):
    assert fetch(metered.metrics_port, method, path)[0] == status


def test_head_has_no_body(metered):
    status, _, text = fetch(metered.metrics_port, "HEAD")
    assert (status, text) == (200, "")


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"x" * 5000, b"\x16\x03\x01"])
def test_a_client_that_sends_no_request_is_cut(metered, sent):
    with socket.create_connection(("127.0.0.1", metered.metrics_port), timeout=10) as silent:
        silent.sendall(sent)
        assert received(silent) == b""
    assert fetch(metered.metrics_port)[0] == 200


def received(connection):
    """What comes until the other end closes the connection."""
    try:
        return connection.recv(1)
    except ConnectionResetError:
        return b""


def test_connections_are_limited_in_number_and_those_that_send_nothing_make_room(metered):
    with ExitStack() as stack:
        address = "127.0.0.1", metered.metrics_port
        first, *_ = (
            stack.enter_context(socket.create_connection(address, timeout=10))
            for _ in range(LIMITS.connections)
        )
        began = time.monotonic()
        assert fetch(metered.metrics_port)[0] == 200
        assert received(first) == b""
        assert time.monotonic() - began < LIMITS.request_s


def test_a_port_that_is_taken_is_refused_and_nothing_is_served():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StartupError, match=r"Address already in use; .*--metrics-port"):
            running_server(metrics_port=taken.getsockname()[1]).__enter__()


def test_calls_are_served_while_metrics_are_read(metered):
    """Reading them does not hold the event loop up."""

    async def read_all():
        async with polyhead.AsyncClient(metered.target) as client:
            reading = [asyncio.to_thread(fetch, metered.metrics_port) for _ in range(3)]
            results = await asyncio.gather(client.attend(QUERY, model="river-bank"), *reading)
            assert [status for status, _, _ in results[1:]] == [200] * 3

    asyncio.run(read_all())
