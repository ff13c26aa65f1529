"""Addresses whose calls crowd out those of others keep few connections, and all others theirs."""

from __future__ import annotations

from collections import Counter

import pytest

from polyhead_server.process.network.crowd_guard import CrowdGuard
from polyhead_server.process.network.refused_addresses import RefusedAddresses

MAX_WAITING, KEPT = 100, 2


@pytest.fixture
def unanswered():
    """How many calls have no answer, by address."""
    return Counter({"127.0.0.1": 1000})


@pytest.fixture
def check(connect, unanswered):
    """Check once for each (time in s, calls that Python has not seen)."""
    unseen = 0
    refused = RefusedAddresses(connect.port)

    def num_unanswered(addresses):
        return Counter({address: unanswered[address] for address in addresses})

    guard = CrowdGuard(
        connect.port,
        lambda: unseen,
        MAX_WAITING,
        min_connections=KEPT,
        num_unanswered=num_unanswered,
        refused=refused,
    )

    def check(*times):
        nonlocal unseen
        for now, number in times:
            unseen = number
            refused.update(now)
            guard.check(now)

    return check


def test_the_connections_of_the_address_with_most_calls_are_ended(connect, check, is_ended):
    crowd, others = [connect() for _ in range(9)], [connect("127.0.0.2") for _ in range(10)]
    check((0, 7), (1, 7 + 2 * MAX_WAITING + 1))
    assert all(map(is_ended, crowd))
    assert not any(map(is_ended, others))


def test_of_several_addresses_those_go_that_have_three_quarters_of_the_calls(
    connect, check, is_ended, unanswered
):
    unanswered.update({"127.0.0.2": 990, "127.0.0.3": 980, "127.0.0.4": 30, "127.0.0.5": 0})
    clients = [[connect(f"127.0.0.{number}") for _ in range(3)] for number in range(1, 6)]
    check((0, 0), (1, 1000))
    assert [all(map(is_ended, each)) for each in clients] == [True, True, True, False, False]


def test_those_that_begin_a_moment_later_go_after_a_second_look(
    connect, check, is_ended, unanswered
):
    connect("127.0.0.3")
    late = [connect("127.0.0.2") for _ in range(3)]
    check((0, 0), (1, 1000))
    unanswered["127.0.0.2"] = 900
    check((1.8, 1000))
    assert not any(map(is_ended, late))
    check((1.9, 1000))
    assert all(map(is_ended, late))


def test_a_second_look_leaves_those_alone_that_have_few_calls(connect, check, is_ended, unanswered):
    connect("127.0.0.3")
    others = [connect("127.0.0.2") for _ in range(3)]
    check((0, 0), (1, 1000))
    unanswered["127.0.0.2"] = MAX_WAITING // 2
    check((1.9, 1000))
    assert not any(map(is_ended, others))


def test_calls_that_are_dropped_after_connections_were_ended_count_at_once(
    connect, check, is_ended, unanswered
):
    connect("127.0.0.3")
    next_crowd = [connect("127.0.0.2") for _ in range(3)]
    check((0, 0), (1, 1000))
    unanswered["127.0.0.2"] = 9000
    check((1.1, 1000 + 2 * MAX_WAITING + 1))
    assert all(map(is_ended, next_crowd))


def test_while_the_guard_looks_no_address_with_many_connections_opens_more(connect, check):
    for address in ("127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.3"):
        connect(address)
    check((0, 0), (1, 1000))
    with pytest.raises(TimeoutError):
        connect("127.0.0.2", timeout_s=0.2)
    connect("127.0.0.3")
    check((1.9, 1000))
    connect("127.0.0.2")


def test_where_nobody_waits_for_answers_no_connection_is_ended(
    connect, check, is_ended, unanswered
):
    clients = [*[connect() for _ in range(5)], connect("127.0.0.2")]
    unanswered.clear()
    check((0, 0), (1, 1000))
    assert not any(map(is_ended, clients))


def test_calls_that_wait_and_a_few_dropped_ones_end_no_connection(connect, check, is_ended):
    clients = [*[connect() for _ in range(5)], connect("127.0.0.2")]
    check((0, 7), (1, 7 + MAX_WAITING), (2, 7), (3, 7 + 2 * MAX_WAITING))
    assert not any(map(is_ended, clients))


def test_calls_that_were_dropped_long_ago_end_no_connection(connect, check, is_ended):
    clients = [*[connect() for _ in range(5)], connect("127.0.0.2")]
    check((0, 0), (4, 120), (8, 240), (12, 360))
    assert not any(map(is_ended, clients))


def test_an_address_alone_crowds_out_nobody(connect, check, is_ended):
    clients = [connect() for _ in range(5)]
    check((0, 0), (1, 1000))
    assert not any(map(is_ended, clients))


def test_an_address_with_few_connections_keeps_them(connect, check, is_ended):
    clients = [connect(), connect(), connect("127.0.0.2")]
    check((0, 0), (1, 1000))
    assert not any(map(is_ended, clients))


def test_an_address_that_crowds_out_others_cannot_connect_for_a_second(connect, check):
    for address in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2"):
        connect(address)
    check((0, 0), (1, 1000))
    with pytest.raises(TimeoutError):
        connect("127.0.0.1", timeout_s=0.2)
    connect("127.0.0.2")
    check((2, 1000))
    connect("127.0.0.1")


def test_it_keeps_no_connection_that_was_made_before_and_taken_late(connect, check, is_ended):
    connect("127.0.0.2")
    crowd = [connect() for _ in range(KEPT + 1)]
    late = connect.begin()
    check((0, 0), (1, 1000))
    for client in crowd:
        connect.close(client)
    connect.take(late)
    check((1.5, 1000))
    assert is_ended(late)


@pytest.mark.parametrize(("before", "most"), [(4, KEPT), (16, 4)])
def test_an_address_that_comes_back_has_a_quarter_for_ten_seconds(
    connect, check, is_ended, before, most
):
    connect("127.0.0.2")
    first = [connect() for _ in range(before)]
    check((0, 0), (1, 1000))
    for client in first:
        assert is_ended(client)
        connect.close(client)
    check((2, 1000))
    second = [connect() for _ in range(before)]
    check((11, 1000))
    assert sum(map(is_ended, second)) == before - most
    third = [connect() for _ in range(before)]
    check((13, 1000))
    assert not any(map(is_ended, third))
