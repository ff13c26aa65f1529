"""What is held of a server's memory, by all callers and by each."""

from __future__ import annotations

import pytest

from polyhead_server.errors import OverloadedError
from polyhead_server.scheduling.memory_budget import MemoryBudget


def is_refused(budget, size, caller="a"):
    before = budget.held_bytes
    with pytest.raises(OverloadedError, match="--max-queue-bytes"):
        budget.reserve(size, caller)
    return budget.held_bytes == before


def test_no_more_is_held_than_allowed():
    budget = MemoryBudget(100)
    with budget.reserve(60):
        with budget.reserve(40):
            assert is_refused(budget, 1)
        budget.reserve(40).release()
        assert is_refused(budget, 41)
    assert budget.held_bytes == 0


def test_one_request_alone_may_exceed_it():
    budget = MemoryBudget(100, max_share=0.5)
    with budget.reserve(60) as held:
        held.grow(1000)
        assert is_refused(budget, 1, "b")
    with budget.reserve(10, "b"), budget.reserve(60) as held:
        held.grow(30)
        with pytest.raises(OverloadedError):
            held.grow(1)
        assert held.size == 90


def test_a_caller_leaves_others_their_share():
    budget = MemoryBudget(100, max_share=0.5)
    with budget.reserve(30, "a"), budget.reserve(20, "a"):
        assert is_refused(budget, 1, "a")
        with budget.reserve(50, "b"):  # who holds nothing else may hold one request
            assert is_refused(budget, 1, "c")
        budget.reserve(1, "c").release()
    assert budget.held_bytes == 0


def test_what_is_there_already_is_counted_without_a_refusal():
    budget = MemoryBudget(100)
    with budget.reserve(60), budget.reserve(10) as held:
        held.add(500)
        assert budget.held_bytes == 570
    assert budget.held_bytes == 0


def test_a_reservation_is_released_once():
    budget = MemoryBudget(100)
    first, other = budget.reserve(60), budget.reserve(0)
    for reservation in (first, first, other):
        reservation.release()
    assert budget.held_bytes == 0
    with pytest.raises(KeyError), budget.reserve(100):
        raise KeyError  # an exception gives the bytes back, too
    assert budget.held_bytes == 0


def test_the_server_is_idle_since_the_last_request_ended():
    now = 1.0
    budget = MemoryBudget(100, clock=lambda: now)
    assert budget.idle_since is None
    with budget.reserve(1), budget.reserve(2):
        assert budget.idle_since is None
        now = 2.0
    assert budget.idle_since == 2.0
    now = 3.0
    budget.note_request()
    assert budget.idle_since == 3.0
