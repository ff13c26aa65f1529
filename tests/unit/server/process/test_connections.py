"""Established connections are counted at the server's end only, until they are closed."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from polyhead_server.process.connections import num_connections


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
