"""Connections that give up calls as fast as they can are ended, and no others."""

from __future__ import annotations

import asyncio
import socket

import pytest

from polyhead_server.process.network.reset_guard import ResetGuard


@pytest.fixture
def connection():
    """A connection to a port of this process, and the port."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        accepted, _ = listener.accept()
        with accepted:
            client.settimeout(10)
            yield client, listener.getsockname()[1]


def give_up(connection, times):
    """Note so many calls that a client gave up, and wait for what the guard does."""
    client, port = connection
    host, client_port = client.getsockname()

    async def scenario():
        guard = ResetGuard(port)
        for _ in range(times):
            guard.note(f"ipv4:{host}:{client_port}")
        for cutting in list(guard._cutting):
            await cutting

    asyncio.run(scenario())
    return client


def test_a_connection_that_gives_up_calls_without_end_is_ended(connection):
    assert give_up(connection, 100).recv(1) == b""


def test_a_connection_that_gives_up_some_calls_stays(connection):
    client = give_up(connection, 99)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
