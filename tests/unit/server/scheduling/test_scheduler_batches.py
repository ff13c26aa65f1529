"""Which jobs share a run, and how long a batch waits for more: with gates, and a clock that moves
only in the test."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from fake_requests import NO_DEADLINE, FakeRequest, attend_job, shared_job
from gated_scheduler import PASSED, PATIENCE_S, Gated, begun, numbers_of, settle

from polyhead_server.deadline import Deadline
from polyhead_server.errors import DeadlineError, InvalidRequestError, OverloadedError


def shared(model, number, length=2, deadline=NO_DEADLINE, **fields):
    return shared_job(model, numbers_of(number, length), deadline, **fields)


def submit(scheduler, *jobs):
    return [asyncio.create_task(scheduler.run(job)) for job in jobs]


async def hold_up(scheduler, model):
    """Occupy the slot, so that what comes now waits."""
    task = asyncio.create_task(scheduler.run(attend_job(model, numbers_of(0))))
    await begun(model)
    return task


def budget(model, max_tokens):
    """Set the most tokens of a batch of a model."""
    model.batching = replace(model.batching, max_tokens=max_tokens)
    return model


class Clock:
    """A scheduler's clock, and the loop's timers by it."""

    def __init__(self):
        self.now = 1000.0
        self.timers = []

    def __call__(self):
        return self.now

    def watch(self, monkeypatch):
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            loop, "call_later", lambda delay, then: self.timers.append((self.now + delay, then))
        )

    def pass_to(self, now):
        """Move it, and call the timers that are due."""
        self.now = now
        due = [timer for timer in self.timers if timer[0] <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for _, then in due:
            then()


# ---------------------------------------------------------------- batches


def test_waiting_jobs_of_one_batch_key_run_together(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, gated)
        tasks = submit(scheduler, *(shared(gated, number) for number in range(1, 6)))
        await settle()
        gated.gate.set()
        await first
        return await asyncio.gather(*tasks)

    results = run_async(scenario())
    assert gated.batches == [[0], [1, 2, 3, 4, 5]]
    for number, (outputs, timing) in enumerate(results, 1):
        assert timing.batch_size == 5
        ((expected, _),) = shared(gated, number).make_batch(()).run()
        assert abs(outputs.output - expected.output).max() <= 1e-6


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (6, [[1, 2, 3], [4, 5, 6], [7]]),
        (7, [[1, 2, 3], [4, 5, 6], [7]]),
        (8, [[1, 2, 3, 4], [5, 6, 7]]),
        (1, [[1], [2], [3], [4], [5], [6], [7]]),  # a larger job runs alone
    ],
)
def test_a_batch_has_no_more_tokens_than_its_budget(
    run_async, make_scheduler, gated, max_tokens, expected
):
    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, gated)
        budget(gated, max_tokens)
        tasks = submit(scheduler, *(shared(gated, number) for number in range(1, 8)))
        await settle()
        gated.gate.set()
        await asyncio.gather(first, *tasks)

    run_async(scenario())
    assert gated.batches == [[0], *expected]


def test_batch_keys_are_never_mixed_and_the_oldest_job_goes_first(
    run_async, make_scheduler, gated, models
):
    other = Gated(models["plain"])
    order = []

    def noting(model, name):
        run_graph = model.run_graph

        def run(names, feeds, options):
            order.append((name, feeds["query"].shape[1], len(feeds["query"])))
            return run_graph(names, feeds, options)

        model.run_graph = run

    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, gated)
        noting(gated, "gated")
        noting(other, "other")
        tasks = submit(
            scheduler,
            shared(gated, 1, length=2),
            shared(other, 2, length=2),
            attend_job(gated, numbers_of(3, length=2)),  # alone
            shared(gated, 4, length=3),
            shared(gated, 5, length=2),
            shared(other, 6, length=2),
            shared(gated, 7, length=3),
            shared(gated, 8, length=2, weights=None),
        )
        await settle()
        gated.gate.set()
        other.gate.set()
        await asyncio.gather(first, *tasks)

    run_async(scenario())
    assert order == [("gated", 2, 3), ("other", 2, 2), ("gated", 2, 1), ("gated", 3, 2)]
    assert gated.batches == [[0], [1, 5, 8], [3], [4, 7]]
    assert other.batches == [[2, 6]]


def test_a_request_with_nan_fails_without_its_batch_mates(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, gated)
        numbers = numbers_of(9)
        numbers["query"] = numbers["query"] / 0.0
        tasks = submit(scheduler, shared(gated, 1), shared_job(gated, numbers), shared(gated, 2))
        await settle()
        gated.gate.set()
        await first
        one, with_nan, two = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(with_nan, InvalidRequestError)
        assert one[0].output.shape == two[0].output.shape == (1, 2, 8)
        assert scheduler.num_running == 0

    with pytest.warns(RuntimeWarning, match="divide by zero"):
        run_async(scenario())


def test_cancelled_and_late_jobs_are_not_in_the_batch(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, gated)
        stays, leaves, late, last = submit(
            scheduler,
            shared(gated, 1),
            shared(gated, 2),
            shared(gated, 3, deadline=PASSED),
            shared(gated, 4),
        )
        await settle()
        leaves.cancel()
        await settle()
        gated.gate.set()
        await asyncio.gather(first, stays, last)
        with pytest.raises(DeadlineError):
            await late

    run_async(scenario())
    assert gated.batches == [[0], [1, 4]]


@pytest.mark.parametrize("num_cancelled", [1, 2])
def test_a_run_ends_early_only_when_its_last_caller_has_cancelled(
    run_async, make_scheduler, models, num_cancelled
):
    ended, hold = [], threading.Event()

    class Model(Gated):
        def run_graph(self, names, feeds, options):
            try:
                if len(feeds["query"]) == 2:
                    self.began.release()
                    assert hold.wait(PATIENCE_S)
                return super().run_graph(names, feeds, options)
            except Exception as error:
                ended.append(str(error))
                raise

    model = Model(models["plain"])

    async def scenario():
        scheduler = make_scheduler()
        first = await hold_up(scheduler, model)
        tasks = submit(scheduler, *(shared(model, number) for number in (1, 2)))
        await settle()
        model.gate.set()
        await first
        await begun(model)
        for task in tasks[:num_cancelled]:
            task.cancel()
        await settle()
        hold.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await scheduler.run(attend_job(model, numbers_of(3)))
        assert scheduler.num_running == 0
        return results

    results = run_async(scenario())
    assert model.batches == [[0], [1, 2], [3]]
    if num_cancelled == 1:
        assert results[1][1].batch_size == 2
        assert not ended
    else:
        (text,) = ended
        assert "terminate" in text


@pytest.mark.parametrize("max_queue_size", [1, 3])
def test_max_queue_size_counts_each_request_of_a_batch(
    run_async, make_scheduler, gated, max_queue_size
):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=max_queue_size)
        first = await hold_up(scheduler, gated)
        tasks = submit(scheduler, *(shared(gated, 1) for _ in range(max_queue_size)))
        await settle()
        with pytest.raises(OverloadedError, match="--max-queue-size"):
            await scheduler.run(shared(gated, 2))
        gated.gate.set()
        await asyncio.gather(first, *tasks)
        await scheduler.run(shared(gated, 3))

    run_async(scenario())
    assert gated.batches == [[0], [1] * max_queue_size, [3]]


def test_failures_of_batches_free_their_slots(run_async, make_scheduler, gated):
    class Fails(FakeRequest):
        def respond(self, *_):
            raise ZeroDivisionError

    async def scenario():
        scheduler = make_scheduler(max_concurrent_runs=2)
        gated.gate.set()
        for _ in range(3):
            tasks = submit(
                scheduler,
                *(shared_job(gated, numbers_of(1), request=Fails(numbers_of(1))) for _ in range(6)),
            )
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {ZeroDivisionError}
        assert scheduler.num_running == 0
        assert await scheduler.run(shared(gated, 2))

    run_async(scenario())


# ---------------------------------------------------------------- waiting for batch mates


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patient(run_async, make_scheduler, clock, monkeypatch):
    """Run a scenario with a scheduler that lets batches wait 5 s for more."""

    def patient(scenario):
        async def watched():
            clock.watch(monkeypatch)
            return await scenario(make_scheduler(max_queue_delay_s=5.0, clock=clock))

        return run_async(watched())

    return patient


def test_a_batch_waits_from_the_arrival_of_its_oldest_job(patient, gated, clock):
    gated.gate.set()

    async def scenario(scheduler):
        tasks = submit(scheduler, shared(gated, 1))
        await settle()
        clock.pass_to(1003.0)
        tasks += submit(scheduler, shared(gated, 2))
        await settle()
        clock.pass_to(1004.9)
        await settle()
        assert not gated.batches
        clock.pass_to(1005.0)
        await asyncio.gather(*tasks)
        clock.pass_to(2000.0)  # a timer that is no longer needed does no harm
        await settle()

    patient(scenario)
    assert gated.batches == [[1, 2]]


def test_a_full_batch_starts_at_once(patient, gated):
    gated.gate.set()
    budget(gated, 4)

    async def scenario(scheduler):
        (_, left, _) = tasks = submit(scheduler, *(shared(gated, number) for number in (1, 2, 3)))
        await asyncio.gather(*tasks[:2])
        await settle()
        assert left.done()
        assert not tasks[2].done()
        tasks[2].cancel()

    patient(scenario)
    assert gated.batches == [[1, 2]]


def test_other_jobs_start_while_a_batch_waits_for_more(patient, gated, clock):
    gated.gate.set()

    async def scenario(scheduler):
        waiting = submit(scheduler, shared(gated, 1), shared(gated, 2, length=3))
        await settle()
        solo = attend_job(gated, numbers_of(3))
        assert await scheduler.run(solo)
        assert gated.batches == [[3]]
        clock.pass_to(1005.0)
        await asyncio.gather(*waiting)

    patient(scenario)
    assert gated.batches == [[3], [1], [2]]


def test_a_job_whose_deadline_passes_while_it_waits_for_more_does_not_run(patient, gated, clock):
    gated.gate.set()

    async def scenario(scheduler):
        (late,) = submit(scheduler, shared(gated, 1, deadline=Deadline(1002.0)))
        (left,) = submit(scheduler, shared(gated, 2))
        await settle()
        left.cancel()
        await settle()
        clock.pass_to(1005.0)
        with pytest.raises(DeadlineError):
            await late
        assert scheduler.num_waiting == 0

    patient(scenario)
    assert not gated.batches


# ---------------------------------------------------------------- inline jobs


def test_run_inline_runs_jobs_of_one_batch_key_together(make_scheduler, gated):
    gated.gate.set()
    budget(gated, 4)
    jobs = [
        shared(gated, 1),
        shared(gated, 2, length=3),
        shared(gated, 3),
        attend_job(gated, numbers_of(4)),
        shared(gated, 5, deadline=PASSED),
        shared(gated, 6),
        attend_job(gated, numbers_of(7)),
    ]
    scheduler = make_scheduler()
    results = scheduler.run_inline(jobs)
    assert gated.batches == [[1, 3], [2], [4], [6], [7]]
    assert isinstance(results[4], DeadlineError)
    sizes = [result[1].batch_size for result in results if result is not results[4]]
    assert sizes == [2, 1, 2, 1, 1, 1]
    assert scheduler.run_inline([]) == []


def test_inline_runs_renew_idle_since(make_scheduler, gated):
    gated.gate.set()
    scheduler = make_scheduler()
    assert scheduler.idle_since is None
    scheduler.run_inline([attend_job(gated, numbers_of(1))])
    first = scheduler.idle_since
    scheduler.run_inline([attend_job(gated, numbers_of(2))])
    assert scheduler.idle_since > first
