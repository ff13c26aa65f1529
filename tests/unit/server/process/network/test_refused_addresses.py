"""An address that is refused cannot connect for a while, and each time for longer."""

from __future__ import annotations

import socket
import sys

import pytest

from polyhead_server.process.network.connections import num_descriptors
from polyhead_server.process.network.refused_addresses import RefusedAddresses

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="filters are Linux's")

ADDRESS = "127.0.0.2"
DROPPED_S = 0.2


@pytest.fixture
def refused(connect):
    return RefusedAddresses(connect.port)


def connects(port, address):
    try:
        socket.create_connection(("127.0.0.1", port), DROPPED_S, (address, 0)).close()
    except TimeoutError:
        return False
    return True


def test_it_cannot_connect_until_its_time_is_over(connect, refused):
    kept = connect(ADDRESS)
    refused.refuse([ADDRESS], 10.0)
    refused.update(10.9)
    assert not connects(connect.port, ADDRESS)
    assert connects(connect.port, "127.0.0.3")
    refused.update(11.0)
    assert connects(connect.port, ADDRESS)
    kept.setblocking(False)
    with pytest.raises(BlockingIOError):  # its connections are left alone
        kept.recv(1)


def test_each_time_is_ten_times_as_long_up_to_five_minutes(refused):
    for began, over in [(0.0, 1.0), (2.0, 12.0), (20.0, 120.0), (130.0, 430.0), (440.0, 740.0)]:
        refused.refuse([ADDRESS], began)
        refused.refuse([ADDRESS], began + 0.5)  # it is refused already
        assert refused.is_refused(ADDRESS, over - 0.1)
        assert not refused.is_refused(ADDRESS, over)


def test_a_refusal_lasts_at_least_as_long_as_is_asked(refused):
    assert refused.refuse([ADDRESS], 0.0, 4.0) == [4.0]
    assert refused.refuse([ADDRESS], 5.0, 4.0) == [45.0]
    assert refused.refuse([ADDRESS], 50.0, 1000.0) == [350.0]


def test_an_address_that_pauses_cannot_connect_and_is_not_refused(connect, refused):
    refused.pause([ADDRESS], 0.0)
    refused.update(0.8)
    assert not connects(connect.port, ADDRESS)
    assert not refused.is_refused(ADDRESS, 0.8)
    refused.update(0.9)
    assert connects(connect.port, ADDRESS)
    assert refused.refuse([ADDRESS], 2.0) == [3.0]  # as one that was never refused


def test_after_ten_minutes_it_counts_as_a_new_one(refused):
    for began in (0.0, 601.1):
        refused.refuse([ADDRESS], began)
        refused.update(began + 1)
        assert not refused.is_refused(ADDRESS, began + 1)
        refused.update(began + 601)


def test_several_are_refused_at_once_each_for_its_own_time(refused):
    refused.refuse([ADDRESS], 0.0)
    assert refused.refuse([ADDRESS, "127.0.0.3"], 2.0) == [12.0, 3.0]


def test_of_very_many_addresses_the_oldest_may_connect_again(connect, refused):
    addresses = [ADDRESS, *(f"10.0.0.{number}" for number in range(199))]
    for address in addresses:
        refused.refuse([address], 0.0)
    assert not connects(connect.port, ADDRESS)
    refused.refuse(["10.0.1.0"], 0.0)
    assert connects(connect.port, ADDRESS)
    assert refused.is_refused("10.0.0.0", 0.5)


def test_descriptors_are_as_before(connect, refused):
    before = num_descriptors()
    refused.refuse([ADDRESS], 0.0)
    refused.update(1.0)
    assert num_descriptors() == before
