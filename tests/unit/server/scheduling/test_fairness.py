"""Whose jobs run next, how many places a caller may have, and what does not wait for long runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fake_requests import attend_job, shared_job
from gated_scheduler import begun, numbers_of, settle

from polyhead_server.errors import OverloadedError
from polyhead_server.origin import Origin
from polyhead_server.scheduling.shares import CallerShares

GREEDY = "greedy"


class Clock:
    """A clock that each reading moves on by a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def submit(scheduler, model, number, caller, peer="", *, make_job=attend_job, is_short=True):
    job = make_job(model, numbers_of(number))
    job.is_short = is_short
    return asyncio.create_task(scheduler.run(job, Origin(peer or caller, caller)))


async def hold_up(scheduler, model, **options):
    """Occupy the slot, so that what comes now waits."""
    task = submit(scheduler, model, 99, "first", **options)
    await begun(model)
    return task


def test_the_next_turn_goes_to_the_caller_that_had_the_least(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=100, clock=Clock())
        tasks = [await hold_up(scheduler, gated)]
        tasks += [submit(scheduler, gated, number, GREEDY) for number in range(20)]
        await settle()
        tasks += [submit(scheduler, gated, 50 + place, f"polite {place}") for place in range(3)]
        await settle()
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert gated.begun[:3] == [99, 0, 50]  # nobody had anything: in order of arrival
    assert sorted(gated.begun[3:5]) == [51, 52]
    assert gated.begun[5:] == list(range(1, 20))


def test_a_peer_has_no_more_turns_with_more_connections(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=100, clock=Clock())
        tasks = [await hold_up(scheduler, gated)]
        tasks += [
            submit(scheduler, gated, number, f"connection {number}", GREEDY) for number in range(20)
        ]
        await settle()
        tasks += [submit(scheduler, gated, 50 + number, "polite") for number in range(5)]
        await settle()
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert sorted(gated.begun[1:11]) == [
        *range(5),
        *range(50, 55),
    ]  # one in two is the polite one's


def test_callers_of_one_peer_share_its_turns(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=100, clock=Clock())
        tasks = [await hold_up(scheduler, gated)]
        tasks += [submit(scheduler, gated, number, GREEDY, "proxy") for number in range(20)]
        await settle()
        tasks += [
            submit(scheduler, gated, 50 + place, f"polite {place}", "proxy") for place in (0, 1)
        ]
        await settle()
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert sorted(gated.begun[2:4]) == [50, 51]


def test_callers_of_one_peer_leave_places_for_others(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=66)
        tasks = [await hold_up(scheduler, gated)]
        tasks += [
            submit(scheduler, gated, number, f"connection {number}", "address")
            for number in range(70)
        ]
        await settle()
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 6  # 64 wait, and 2 places are left
        for task in refused:
            with pytest.raises(OverloadedError, match=r"64 of the 64 .* are from this address"):
                task.result()
        other = submit(scheduler, gated, 80, "polite")
        await settle()
        assert not other.done()
        gated.gate.set()
        await asyncio.gather(other, *(task for task in tasks if task not in refused))

    run_async(scenario())


def test_places_in_a_batch_go_round_the_callers(run_async, make_scheduler, gated):
    gated.batching = replace(gated.batching, max_tokens=12)  # six requests of two tokens

    async def scenario():
        scheduler = make_scheduler(max_queue_size=100)
        tasks = [await hold_up(scheduler, gated)]
        callers = dict.fromkeys(range(10), GREEDY) | {50: "a", 51: "a", 60: "b", 61: "b"}
        tasks += [
            submit(scheduler, gated, number, caller, make_job=shared_job)
            for number, caller in callers.items()
        ]
        await settle()
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert sorted(gated.batches[1]) == [0, 1, 50, 51, 60, 61]
    assert gated.batches[2] == [2, 3, 4, 5, 6, 7]


def test_one_caller_leaves_places_for_others(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=34)
        tasks = [await hold_up(scheduler, gated)]
        tasks += [submit(scheduler, gated, number, GREEDY) for number in range(40)]
        await settle()
        refused = [task for task in tasks if task.done()]
        assert len(refused) == 8  # 32 wait, and 2 places are left
        for task in refused:
            with pytest.raises(OverloadedError, match="32 of the 32 requests that wait are from"):
                task.result()
        other = submit(scheduler, gated, 50, "polite")
        await settle()
        assert not other.done()
        gated.gate.set()
        await asyncio.gather(other, *(task for task in tasks if task not in refused))

    run_async(scenario())


def test_short_runs_begin_beside_long_ones(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        tasks = [await hold_up(scheduler, gated, is_short=False)]
        tasks.append(submit(scheduler, gated, 1, GREEDY, is_short=False))
        tasks += [submit(scheduler, gated, number, "polite") for number in (2, 3)]
        await begun(gated)
        await settle()
        assert gated.begun == [99, 2]  # one short run at a time, and no second long one
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert gated.most_at_once == 2
    assert sorted(gated.begun) == [1, 2, 3, 99]


def test_long_runs_have_their_turn_among_short_ones(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=100)
        tasks = [await hold_up(scheduler, gated)]
        tasks += [submit(scheduler, gated, 1, "first")]
        tasks += [submit(scheduler, gated, 2, "first", is_short=False)]
        tasks += [submit(scheduler, gated, number, "first") for number in range(3, 10)]
        await settle()
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert gated.begun[:3] == [99, 1, 2]


def test_the_slot_of_a_cancelled_run_is_freed_before_it_ends(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(abandon_after_s=0.0)
        first = await hold_up(scheduler, gated, is_short=False)
        second = submit(scheduler, gated, 1, "second", is_short=False)
        third = submit(scheduler, gated, 2, "third", is_short=False)
        first.cancel()
        await begun(gated)
        assert gated.begun == [99, 1]
        second.cancel()  # one abandoned run goes on already, so this one keeps the slot
        await settle()
        assert scheduler.num_running == 1
        gated.gate.set()
        await third
        assert scheduler.num_running == 0

    run_async(scenario())
    assert gated.begun == [99, 1, 2]


def test_a_caller_that_comes_back_has_saved_no_turns():
    shares = CallerShares()
    shares.charge("busy", 5.0)
    shares.begin_turn("busy")
    assert shares.used("new") == shares.used("busy") == 5.0
    shares.charge("new", 1.0)
    assert shares.used("new") == 6.0


def test_callers_at_the_floor_are_dropped():
    shares = CallerShares()
    for number in range(10_000):
        shares.charge(f"caller {number}", 1.0)
        shares.begin_turn(f"caller {number}")
    assert len(shares._seconds) < 2100
