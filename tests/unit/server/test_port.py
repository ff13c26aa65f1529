"""A port for a group: who gets it, who is refused, and when."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from polyhead_server.errors import StartupError
from polyhead_server.process.port import address_of, claimed_port

HOST = "127.0.0.1"


@contextmanager
def grpc_server(port, *, reuses_port):
    """A server of gRPC's, as App makes it: alone (False), or as one of a group's workers."""
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


def test_any_free_port():
    with claimed_port(HOST, 0) as first, claimed_port(HOST, 0) as second:
        assert first > 0
        assert second not in (0, first)


def test_before_a_worker_listens_nobody_is_connected_and_nobody_else_gets_in():
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
def test_a_port_that_a_server_has_alone_is_refused(host):
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with grpc_server(port, reuses_port=False):
        assert refused(port, host)


@pytest.mark.parametrize("was_group", [False, True])
def test_a_port_whose_last_connections_linger_can_be_had_again(was_group):
    """Whoever closes a connection first, such as a server that drains, leaves it in TIME_WAIT."""
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
def test_an_address_that_is_not_this_machines(host):
    assert refused(0, host)


@pytest.mark.parametrize(
    ("host", "text"), [("localhost", "localhost:5"), ("::1", "[::1]:5"), ("[::1]", "[::1]:5")]
)
def test_addresses_as_clients_take_them(host, text):
    assert address_of(host, 5) == text
