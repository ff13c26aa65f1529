"""Established connections are counted at the server's end alone, until they are closed."""

from __future__ import annotations

import socket
import sys

import pytest

from polyhead_server.connections import num_connections


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
