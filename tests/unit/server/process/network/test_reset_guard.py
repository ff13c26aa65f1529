"""Connections that give up calls as fast as they can are ended, and no others."""

from __future__ import annotations

import asyncio

import pytest

from polyhead_server.process.network import reset_guard
from polyhead_server.process.network.reset_guard import ResetGuard


def name_of(client):
    return "ipv4:{}:{}".format(*client.getsockname())


class Refused:
    """Takes the addresses that may not connect."""

    def __init__(self):
        self.addresses = []

    def refuse(self, addresses, _):
        self.addresses += addresses


def give_up(port, *rounds, is_late=False):
    """Note given-up calls, {connection: count} in each round, between the guard's looks at them.

    Returns the addresses that may not connect.
    """
    refused = Refused()

    async def scenario():
        guard = ResetGuard(port, refused)
        for counts in rounds:
            for client, times in counts.items():
                for _ in range(times):
                    guard.note(name_of(client) if client else "", is_late)
            watching = asyncio.create_task(guard.watch())
            await asyncio.sleep(0.02)
            watching.cancel()
            await asyncio.wait([watching])

    asyncio.run(scenario())
    return refused.addresses


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(reset_guard, "_PAUSE_S", 0.001)


def test_a_connection_that_gives_up_calls_without_end_is_ended(connect, is_ended):
    hasty, other = connect(), connect()
    give_up(connect.port, {hasty: 100, other: 99})
    assert [is_ended(hasty), is_ended(other)] == [True, False]


def test_connections_of_an_address_that_give_up_calls_together_are_ended(connect, is_ended):
    hasty = [connect() for _ in range(10)]
    quiet, other = connect(), connect("127.0.0.2")
    give_up(connect.port, dict.fromkeys(hasty, 50) | {other: 50})
    assert all(map(is_ended, hasty))
    assert not is_ended(quiet)
    assert not is_ended(other)


def test_an_address_that_comes_back_at_once_is_given_less(connect, is_ended):
    first, second, other = connect(), connect(), connect("127.0.0.2")
    refused = give_up(connect.port, {first: 100}, {second: 50, other: 50})
    assert [is_ended(second), is_ended(other)] == [True, False]
    assert refused == ["127.0.0.1"]


def test_an_address_may_connect_again_after_a_first_cut(connect):
    assert give_up(connect.port, {connect(): 100, connect("127.0.0.2"): 100}) == []


def test_calls_without_a_peer_end_nothing(connect, is_ended):
    client = connect()
    give_up(connect.port, {None: 1000})
    assert not is_ended(client)


def test_calls_that_are_given_up_now_and_then_end_nothing(connect, is_ended, monkeypatch):
    monkeypatch.setattr(reset_guard, "_WINDOW_S", 0)
    client = connect()
    give_up(connect.port, *[{client: 99}] * 3)
    assert not is_ended(client)


def test_calls_whose_deadline_was_near_count_an_eighth(connect, is_ended):
    busy, hasty = connect(), connect("127.0.0.2")
    give_up(connect.port, {busy: 792, hasty: 800}, is_late=True)
    assert [is_ended(busy), is_ended(hasty)] == [False, True]
