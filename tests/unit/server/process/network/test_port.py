"""A port that a group of workers shares: which servers may listen on it, and when."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from polyhead_server.errors import StartupError
from polyhead_server.process.network.port import address_of, claimed_port

HOST = "127.0.0.1"


@contextmanager
def grpc_server(port, *, reuses_port):
    """Run a gRPC server with the options of App: alone (False), or as one of several workers."""
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", int(reuses_port))])
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def refused(port, host=HOST):
    with pytest.raises(StartupError, match=r"cannot listen on .* --port .* --host"):
        claimed_port(host, port).__enter__()
    return True


def test_port_0_claims_any_free_port():
    with claimed_port(HOST, 0) as first, claimed_port(HOST, 0) as second:
        assert first > 0
        assert second not in (0, first)


def test_a_claimed_port_accepts_neither_connections_nor_other_servers():
    with claimed_port(HOST, 0) as port:
        with socket.socket() as client:
            assert client.connect_ex((HOST, port)) != 0
        assert refused(port)
        with pytest.raises(RuntimeError):
            grpc_server(port, reuses_port=False).__enter__()


def test_workers_share_the_port_and_others_are_refused():
    with (
        claimed_port(HOST, 0) as port,
        grpc_server(port, reuses_port=True),
        grpc_server(port, reuses_port=True),
    ):
        assert refused(port)
        with pytest.raises(RuntimeError):
            grpc_server(port, reuses_port=False).__enter__()
        with socket.create_connection((HOST, port)):
            pass


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
def test_a_port_of_a_single_server_is_refused(host):
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with grpc_server(port, reuses_port=False):
        assert refused(port, host)


@pytest.mark.parametrize("was_group", [False, True])
def test_a_port_with_connections_in_time_wait_can_be_claimed(was_group):
    """The side that closes a connection first, such as a server that drains, keeps TIME_WAIT."""
    with claimed_port(HOST, 0) as port:
        pass
    with socket.socket() as old:
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(was_group))
        old.bind((HOST, port))
        old.listen()
        with socket.create_connection((HOST, port)) as client:
            old.accept()[0].close()
            assert client.recv(1) == b""
    for _ in range(2):
        with claimed_port(HOST, port), grpc_server(port, reuses_port=True):
            pass


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 64])
def test_an_address_of_another_machine_is_refused(host):
    assert refused(0, host)


@pytest.mark.parametrize(
    ("host", "text"), [("localhost", "localhost:5"), ("::1", "[::1]:5"), ("[::1]", "[::1]:5")]
)
def test_addresses_have_the_form_that_clients_take(host, text):
    assert address_of(host, 5) == text
