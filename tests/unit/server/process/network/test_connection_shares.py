"""An address with more than its share of the connections loses some, and others lose none."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack

import pytest

from polyhead_server.limits import PeerLimits
from polyhead_server.process.network.connection_shares import ConnectionShares
from polyhead_server.process.network.refused_addresses import RefusedAddresses
from polyhead_server.rpc.open_calls import OpenCalls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")


def is_cut(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    ("counts", "max_share", "most"),
    [
        ([50, 50], 0.5, 45),  # together they would have all
        ([50, 50, 3], 0.5, 43),
        ([10, 10], 0.5, 50),
        ([100, 3], 0.5, 50),
        ([100], 1, 100),  # a proxy
        ([1] * 200, 0.5, 1),
    ],
)
def test_a_few_addresses_leave_places_to_others(counts, max_share, most):
    shares = ConnectionShares(OpenCalls(PeerLimits()), 1, 100, max_share, RefusedAddresses(1))
    assert shares._most_of_one(counts) == most


def test_connections_beyond_the_share_of_an_address_end_and_those_without_calls_first(caplog):
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = listener.getsockname()

        def connect(source):
            client = socket.create_connection(address, source_address=(source, 0))
            sockets.enter_context(client)
            sockets.enter_context(listener.accept()[0])
            return client

        greedy = [connect("127.0.0.2") for _ in range(10)]
        modest = [connect("127.0.0.1") for _ in range(5)]
        busy = {f"ipv4:127.0.0.2:{client.getsockname()[1]}" for client in greedy[3:7]}
        refused = RefusedAddresses(address[1])
        shares = ConnectionShares(OpenCalls(PeerLimits()), address[1], 20, 0.25, refused)
        shares.cut(busy, now=10)
        shares.cut(busy, now=10)
        assert [is_cut(client) for client in greedy].count(True) == 5
        assert not any(map(is_cut, greedy[3:7]))
        assert not any(map(is_cut, modest))
        assert refused.is_refused("127.0.0.2", now=10.9)
        assert not refused.is_refused("127.0.0.1", now=10.9)
        (line,) = caplog.records
        assert (line.peer, line.connections, line.most) == ("127.0.0.2", 5, 5)
