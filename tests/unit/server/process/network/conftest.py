"""Connections to a port of this process, as the server's guards see them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

PATIENCE_S = 10


@pytest.fixture
def connect():
    """Open connections to a port of this process; `connect.port` is the port.

    ``connect.close(client)`` closes both ends. ``connect.begin`` leaves a connection waiting for
    ``connect.take(client)``, with which the server's end begins.
    """
    accepted = {}
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))

        def begin(address="127.0.0.1", timeout_s=PATIENCE_S):
            client = socket.create_connection(listener.getsockname(), timeout_s, (address, 0))
            return sockets.enter_context(client)

        def take(client):
            accepted[client] = sockets.enter_context(listener.accept()[0])

        def connect(*args, **kwargs):
            client = begin(*args, **kwargs)
            take(client)
            return client

        def close(client):
            client.close()
            accepted[client].close()

        connect.begin, connect.take, connect.close = begin, take, close
        connect.port = listener.getsockname()[1]
        yield connect


@pytest.fixture
def is_ended():
    """Whether the other end has closed a connection."""

    def is_ended(client):
        client.setblocking(False)
        try:
            return client.recv(1) == b""
        except BlockingIOError:
            return False

    return is_ended
