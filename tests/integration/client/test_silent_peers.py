"""A peer that accepts connections and says nothing is not taken for a slow server."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest

import polyhead
from polyhead import DeadlineExceededError, cli

QUERY = np.ones((1, 3, 6), np.float32)
TIMEOUT_S = 0.3
SILENT = "nothing answered as gRPC at .* within 0.3 s: check that a polyhead server runs there"


@pytest.fixture
def silent():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("transport", ["unary", "stream"])
@pytest.mark.parametrize("tls", [None, True])
def test_a_silent_peer_is_no_slow_server(silent, transport, tls):
    options = {"timeout": TIMEOUT_S, "transport": transport, "tls": tls}
    with (
        polyhead.Client(silent, **options) as client,
        pytest.raises(DeadlineExceededError, match=SILENT),
    ):
        client.attend(QUERY, model="m")

    async def scenario():
        async with polyhead.AsyncClient(silent, **options) as client:
            with pytest.raises(DeadlineExceededError, match=SILENT):
                await client.attend(QUERY, model="m")

    asyncio.run(scenario())


def test_commands_say_so_too(silent, capsys):
    for command in (["models"], ["health"]):
        assert cli.main([*command, "--server", silent, "--timeout", str(TIMEOUT_S)]) == 1
        assert "nothing answered as gRPC" in capsys.readouterr().err
