"""What a model has done is summed up whole, whenever it is asked for and whoever adds to it."""

from __future__ import annotations

import threading

from polyhead_server.engine.statistics import (
    Duration,
    ModelStatistics,
    PhaseTotals,
    RequestTiming,
    RunTimestamps,
)

TIMES = RunTimestamps(10.0, 10.5, 12.5, 12.75)


def test_nothing_at_first():
    totals = ModelStatistics().totals()
    assert totals.last_inference_s == 0.0
    assert (totals.inference_count, totals.execution_count) == (0, 0)
    assert totals.batches == {}
    assert totals.success == totals.queue == totals.fail == Duration(0, 0.0)


def test_a_run_that_several_share():
    """Each of them has what the run took."""
    statistics = ModelStatistics()
    statistics.add(5, TIMES, [RequestTiming(2, 0.5), RequestTiming(3, 1.0)])
    totals = statistics.totals()
    assert (totals.inference_count, totals.execution_count) == (5, 1)
    assert totals.batches == {5: PhaseTotals(1, 0.5, 2.0, 0.25)}
    assert totals.compute == PhaseTotals(2, 1.0, 4.0, 0.5)
    assert totals.queue == Duration(2, 1.5)
    assert totals.success == Duration(2, 1.5 + 5.5)


def test_several_runs_for_requests_that_are_alike():
    """What they took together is that of each run in equal shares."""
    statistics = ModelStatistics()
    statistics.add(4, TIMES, [RequestTiming(1, 0.5, num_requests=8)], num_runs=2)
    totals = statistics.totals()
    assert (totals.inference_count, totals.execution_count) == (8, 2)
    assert totals.batches == {4: PhaseTotals(2, 0.5, 2.0, 0.25)}
    assert totals.compute == PhaseTotals(8, 2.0, 8.0, 1.0)
    assert totals.queue == Duration(8, 4.0)


def test_failures():
    statistics = ModelStatistics()
    statistics.add_failure(0.5)
    statistics.add_failure(1.0)
    assert statistics.totals().fail == Duration(2, 1.5)


def test_what_was_told_does_not_change():
    statistics = ModelStatistics()
    statistics.add(1, TIMES, [RequestTiming(1, 0.0)])
    before = statistics.totals()
    statistics.add(1, TIMES, [RequestTiming(1, 0.0)])
    assert (before.inference_count, before.batches[1].count) == (1, 1)
    assert statistics.totals().batches[1].count == 2


def test_nothing_is_lost_where_threads_add_and_others_ask():
    statistics, num_threads, each = ModelStatistics(), 4, 500

    def add():
        for n in range(each):
            statistics.add(1 + n % 3, TIMES, [RequestTiming(1, 0.0)])
            if n % 50 == 0:
                statistics.totals()

    threads = [threading.Thread(target=add) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    totals = statistics.totals()
    assert totals.inference_count == totals.execution_count == num_threads * each
    assert sum(tally.count for tally in totals.batches.values()) == totals.compute.count
