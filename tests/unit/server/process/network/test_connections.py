"""Connections are counted, and ended, at the server's end only."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from polyhead_server.process.network import connections
from polyhead_server.process.network.connections import (
    end_connections,
    num_connections,
    num_descriptors,
    peers_connected,
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_connections_are_counted(family, host):
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} is not there")
        listener.listen()
        port = listener.getsockname()[1]
        assert num_connections(port) == 0
        with socket.create_connection((host, port)) as client:
            accepted, _ = listener.accept()
            with accepted:
                assert num_connections(port) == 1
                assert num_connections(client.getsockname()[1]) == 1
            client.recv(1)
        assert num_connections(port) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")
def test_connections_of_other_processes_are_not_counted():
    """Workers share their port, and each waits for its own clients only."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        connect = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); input()"
        with subprocess.Popen([sys.executable, "-c", connect], stdin=subprocess.PIPE) as other:
            accepted, (_, their_port) = listener.accept()
            with accepted:
                assert num_connections(port) == 1
                assert num_connections(their_port) == 0
            other.communicate(b"\n")


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")
@pytest.mark.parametrize(
    ("family", "host", "name"),
    [
        (socket.AF_INET, "127.0.0.1", "ipv4:127.0.0.1"),
        (socket.AF_INET6, "::1", "ipv6:%5B::1%5D"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "ipv4:127.0.0.1"),
    ],
)
def test_connections_without_calls_are_ended_and_all_that_was_written_arrives(family, host, name):
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"{host} is not there")
        listener.listen()
        port = listener.getsockname()[1]
        clients = [socket.create_connection((host, port)) for _ in range(2)]
        accepted = [listener.accept()[0] for _ in clients]
        busy = f"{name}:{clients[0].getsockname()[1]}"
        for connection in accepted:
            connection.sendall(b"written")
        end_connections(port, {busy, "", "unix:"})
        assert clients[1].makefile("rb").read() == b"written"
        accepted[0].sendall(b" more")
        end_connections(port, set())
        assert clients[0].makefile("rb").read() == b"written more"
        clients.append(socket.create_connection((host, port)))  # the listener is left alone
        for connection in (*clients, *accepted):
            connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")
def test_a_descriptor_that_became_a_files_meanwhile_is_not_kept(monkeypatch, tmp_path):
    """A connection may be closed, and a file opened, after the descriptors were listed."""
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(connections, "_own_descriptors", lambda: [file.fileno()])
        before = num_descriptors()
        assert peers_connected(50051) == {}
        assert num_descriptors() == before
