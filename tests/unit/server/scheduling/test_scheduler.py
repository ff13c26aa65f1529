"""Which jobs run when, are refused, or never run; with a real model, gates, and no sleeps."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from fake_requests import NO_DEADLINE, FakeRequest, attend_job
from gated_scheduler import PASSED, Gated, begun, numbers_of, settle

from polyhead_server.deadline import Deadline
from polyhead_server.engine.statistics import ModelStatistics
from polyhead_server.errors import DeadlineError, OverloadedError
from polyhead_server.origin import Origin
from polyhead_server.scheduling.scheduler import Scheduler


def solo(model, number, deadline=NO_DEADLINE):
    return attend_job(model, numbers_of(number), deadline)


def inline(job):
    """Let a job run on the event loop."""
    job.runs_inline = True
    return job


def submit(scheduler, model, number, deadline=NO_DEADLINE):
    return asyncio.create_task(scheduler.run(solo(model, number, deadline)))


def test_runs_in_order_of_arrival_and_never_more_at_once_than_allowed(
    run_async, make_scheduler, gated
):
    async def scenario():
        scheduler = make_scheduler(max_concurrent_runs=2)
        tasks = [submit(scheduler, gated, number) for number in range(8)]
        await begun(gated)
        await begun(gated)
        await settle()
        assert sorted(gated.begun) == [0, 1]
        gated.gate.set()
        return await asyncio.gather(*tasks)

    results = run_async(scenario())
    assert gated.most_at_once == 2
    assert sorted(gated.begun[:2]) == [0, 1]
    # two threads may swap neighbours, and no job moves further
    assert all(abs(number - place) <= 1 for place, number in enumerate(gated.begun))
    for outputs, timing in results:
        assert outputs.output.shape == (1, 2, 8)
        assert timing.queue_ms >= 0
        assert timing.compute_ms > 0


def test_one_at_a_time_is_strictly_in_order(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        tasks = [submit(scheduler, gated, number) for number in range(6)]
        await begun(gated)
        gated.gate.set()
        await asyncio.gather(*tasks)

    run_async(scenario())
    assert gated.begun == [0, 1, 2, 3, 4, 5]


def test_each_caller_gets_the_result_of_its_own_request(run_async, make_scheduler, models):
    async def scenario():
        scheduler = make_scheduler(max_concurrent_runs=3, max_queue_size=50)
        tasks = [submit(scheduler, models["plain"], number) for number in range(40)]
        return await asyncio.gather(*tasks)

    for number, (outputs, _) in enumerate(run_async(scenario())):
        ((expected, _),) = solo(models["plain"], number).make_batch(()).run()
        np.testing.assert_array_equal(outputs.output, expected.output)


@pytest.mark.parametrize("max_queue_size", [0, 1, 3])
def test_a_full_queue_refuses_and_recovers(run_async, make_scheduler, gated, max_queue_size):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=max_queue_size)
        admitted = [submit(scheduler, gated, number) for number in range(1 + max_queue_size)]
        await begun(gated)
        await settle()
        for _ in range(3):
            with pytest.raises(OverloadedError, match="--max-queue-size") as caught:
                await scheduler.run(solo(gated, 99))
            assert caught.value.retry_after_ms > 0
        gated.gate.set()
        await asyncio.gather(*admitted)
        await scheduler.run(solo(gated, 50))

    run_async(scenario())
    assert gated.begun == [*range(1 + max_queue_size), 50]


def test_a_job_that_would_wait_beyond_its_deadline_is_refused_at_once(
    run_async, make_scheduler, gated
):
    clock = SimpleNamespace(now=1000.0)

    async def scenario():
        scheduler = make_scheduler(clock=lambda: clock.now)
        running = submit(scheduler, gated, 0)
        await begun(gated)
        waiting = submit(scheduler, gated, 1)
        await settle()
        clock.now += 2
        with pytest.raises(OverloadedError, match=r"of this caller wait for 2\.00 s") as caught:
            await scheduler.run(solo(gated, 2, Deadline(clock.now + 1.9)))
        assert caught.value.retry_after_ms > 0
        has_time = submit(scheduler, gated, 3, Deadline(clock.now + 2.6))
        begun_job = solo(gated, 5, Deadline(clock.now + 1.9))
        begun_job.has_begun = True
        goes_on = asyncio.create_task(scheduler.run(begun_job))
        of_another = asyncio.create_task(
            scheduler.run(solo(gated, 4, Deadline(clock.now + 1.9)), Origin(caller="another"))
        )
        await settle()
        gated.gate.set()
        await asyncio.gather(running, waiting, has_time, goes_on, of_another)

    run_async(scenario())
    assert sorted(gated.begun) == [0, 1, 3, 4, 5]


def test_a_job_that_is_cancelled_while_it_waits_never_runs_and_frees_its_place(
    run_async, make_scheduler, gated
):
    async def scenario():
        scheduler = make_scheduler(max_queue_size=2)
        first, second, third = (submit(scheduler, gated, number) for number in range(3))
        await begun(gated)
        await settle()
        second.cancel()
        await settle()
        fourth = submit(scheduler, gated, 3)  # the queue has a place again
        await settle()
        gated.gate.set()
        ended = await asyncio.gather(first, second, third, fourth, return_exceptions=True)
        assert isinstance(ended[1], asyncio.CancelledError)

    run_async(scenario())
    assert gated.begun == [0, 2, 3]


def test_a_job_whose_deadline_passes_while_it_waits_never_runs(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler()
        first = submit(scheduler, gated, 0)
        await begun(gated)
        late = submit(scheduler, gated, 1, PASSED)
        last = submit(scheduler, gated, 2)
        await settle()
        gated.gate.set()
        await asyncio.gather(first, last)
        with pytest.raises(DeadlineError):
            await late

    run_async(scenario())
    assert gated.begun == [0, 2]


def test_an_inline_job_whose_deadline_has_passed_does_not_run(run_async, make_scheduler, gated):
    gated.gate.set()

    async def scenario():
        scheduler = make_scheduler()
        with pytest.raises(DeadlineError):
            await scheduler.run(inline(solo(gated, 1, PASSED)))
        await scheduler.run(inline(solo(gated, 2)))

    run_async(scenario())
    assert gated.begun == [2]


@pytest.mark.parametrize("times", [1, 2])
def test_a_cancelled_run_frees_its_slot_once_and_only_when_it_has_ended(
    run_async, make_scheduler, gated, times
):
    async def scenario():
        scheduler = make_scheduler()
        running, waiting = submit(scheduler, gated, 0), submit(scheduler, gated, 1)
        await begun(gated)
        for _ in range(times):
            running.cancel()
            await settle()
        assert running.cancelled()
        assert gated.begun == [0]  # the thread still runs it
        gated.gate.set()
        await waiting
        assert scheduler.num_running == 0
        await scheduler.run(solo(gated, 2))
        assert scheduler.num_running == 0

    run_async(scenario())
    assert gated.begun == [0, 1, 2]
    assert gated.most_at_once == 1


def test_cancelling_ends_the_run_of_the_graph(run_async, make_scheduler, models):
    """The run ends at the graph's next node, and its error is passed to no caller."""
    ended = []

    class Model(Gated):
        def run_graph(self, names, feeds, options):
            try:
                return super().run_graph(names, feeds, options)
            except Exception as error:
                ended.append(str(error))
                raise

    model = Model(models["plain"])

    async def scenario():
        scheduler = make_scheduler()
        running = submit(scheduler, model, 0)
        await begun(model)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        model.gate.set()
        await scheduler.run(solo(model, 1))  # after it: there is one slot

    run_async(scenario())
    (text,) = ended
    assert "terminate" in text
    assert model.begun == [0, 1]


def test_a_run_that_fails_frees_its_slot(run_async, make_scheduler, models):
    def fail(names, feeds, options):
        raise RuntimeError("broken")

    plain = models["plain"]
    broken = SimpleNamespace(
        config=plain.config,
        max_scores_bytes=1,
        execution_info=plain.execution_info,
        batching=plain.batching,
        run_graph=fail,
        run_options=plain.run_options,
        statistics=ModelStatistics(),
    )

    async def scenario():
        scheduler = make_scheduler(max_queue_size=0)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="broken"):
                await scheduler.run(solo(broken, 0))
        await scheduler.run(solo(models["plain"], 1))

    run_async(scenario())


@pytest.mark.parametrize("runs_inline", [False, True])
def test_a_failed_request_is_freed_without_the_garbage_collector(
    run_async, make_scheduler, models, runs_inline
):
    class Fails(FakeRequest):
        def respond(self, *_):
            raise ZeroDivisionError

    async def scenario():
        scheduler = make_scheduler()
        request = Fails(numbers_of(1))
        job = attend_job(models["plain"], numbers_of(1), request=request)
        job.runs_inline = runs_inline
        freed = weakref.ref(request)
        with pytest.raises(ZeroDivisionError):
            await scheduler.run(job)
        del request, job
        await scheduler.run(solo(models["plain"], 2))  # the thread has dropped the first
        return freed

    gc.disable()
    try:
        assert run_async(scenario())() is None
    finally:
        gc.enable()


def test_a_run_is_cancelled_only_by_its_own_caller(run_async, make_scheduler, gated):
    async def scenario():
        scheduler = make_scheduler(max_concurrent_runs=2)
        cancelled, other = submit(scheduler, gated, 0), submit(scheduler, gated, 1)
        await begun(gated)
        await begun(gated)
        cancelled.cancel()
        await settle()
        gated.gate.set()
        outputs, _ = await other
        assert outputs.output.shape == (1, 2, 8)

    run_async(scenario())


@pytest.mark.parametrize("runs_inline", [False, True])
def test_a_job_runs_in_a_worker_thread_unless_it_runs_inline(
    run_async, make_scheduler, models, runs_inline
):
    """Arrays are read and responses written in the thread of the run."""
    threads = []

    class Noting(FakeRequest):
        def arrays(self):
            threads.append(threading.current_thread())
            return super().arrays()

        def respond(self, *given):
            threads.append(threading.current_thread())
            return super().respond(*given)

    async def scenario():
        numbers = numbers_of(1)
        job = attend_job(models["plain"], numbers, request=Noting(numbers))
        job.runs_inline = runs_inline
        await make_scheduler().run(job)
        return threading.current_thread()

    here = run_async(scenario())
    assert len(threads) == 2
    assert all((thread is here) == runs_inline for thread in threads)
    assert all(thread.name.startswith("polyhead-run") != runs_inline for thread in threads)


def test_close_waits_for_runs_and_ends_the_threads(run_async, gated):
    before = set(threading.enumerate())

    async def scenario():
        scheduler = Scheduler(1, 10, 1 << 20)
        running = submit(scheduler, gated, 0)
        await begun(gated)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        await settle()
        assert not closing.done()
        gated.gate.set()
        await closing
        await running

    run_async(scenario())
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("polyhead-run")]
