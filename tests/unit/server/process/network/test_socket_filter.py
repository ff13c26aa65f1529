"""A socket receives nothing from the addresses of its filter, and everything from all others."""

from __future__ import annotations

import socket
import sys

import pytest

from polyhead_server.process.network.socket_filter import drop_packets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters are Linux's")

DROPPED_S, PATIENCE_S = 0.2, 10
IPV6_LOOPBACK = "0000:0000:0000:0000"


@pytest.fixture
def listener():
    """A socket that takes IPv4 and IPv6, as gRPC's does."""
    try:
        server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        yield server


def connects(listener, address):
    host = "::1" if ":" in address else "127.0.0.1"
    try:  # what is dropped is sent again after a second
        client = socket.create_connection(
            (host, listener.getsockname()[1]), DROPPED_S, (address, 0)
        )
    except TimeoutError:
        return False
    with client:
        listener.accept()[0].close()
        return True


@pytest.mark.parametrize(
    ("dropped", "addresses"),
    [
        (["127.0.0.2"], {"127.0.0.2": False, "127.0.0.3": True, "::1": True}),
        ([IPV6_LOOPBACK], {"127.0.0.2": True, "::1": False}),
        (["2001:0db8:0000:0000", "10.0.0.7"], {"127.0.0.2": True, "::1": True}),
        (
            ["2001:0db8:0000:0000", "127.0.0.3", IPV6_LOOPBACK, "127.0.0.2"],
            {"127.0.0.2": False, "127.0.0.3": False, "127.0.0.4": True, "::1": False},
        ),
        ([f"10.0.{i}.7" for i in range(100)] + ["127.0.0.2"], {"127.0.0.2": False, "::1": True}),
    ],
)
def test_only_the_addresses_of_the_filter_cannot_connect(listener, dropped, addresses):
    drop_packets(listener, dropped)
    assert {each: connects(listener, each) for each in addresses} == addresses


def test_a_filter_is_replaced_and_removed(listener):
    drop_packets(listener, ["127.0.0.2"])
    drop_packets(listener, ["127.0.0.3"])
    assert connects(listener, "127.0.0.2")
    assert not connects(listener, "127.0.0.3")
    drop_packets(listener, [])
    assert connects(listener, "127.0.0.3")


def test_a_connection_that_exists_goes_on(listener):
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S, ("127.0.0.2", 0)) as client:
        accepted, _ = listener.accept()
        with accepted:
            drop_packets(listener, ["127.0.0.2"])
            client.sendall(b"more")
            accepted.settimeout(PATIENCE_S)
            assert accepted.recv(4) == b"more"
