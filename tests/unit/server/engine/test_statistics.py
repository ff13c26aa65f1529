"""Statistics of a model: counts and durations add up, from any number of threads."""

from __future__ import annotations

import threading
import tracemalloc

from polyhead_server.engine.statistics import (
    Duration,
    ModelStatistics,
    PhaseTotals,
    RequestTiming,
    RunTimestamps,
)
from polyhead_server.histogram import SECONDS

TIMES = RunTimestamps(10.0, 10.5, 12.5, 12.75)


def test_totals_are_0_before_the_first_run():
    totals = ModelStatistics().totals()
    assert totals.last_inference_s == 0.0
    assert (totals.inference_count, totals.execution_count) == (0, 0)
    assert totals.batches == {}
    assert totals.success == totals.queue == totals.fail == Duration(0, 0.0)


def test_each_request_of_a_shared_run_counts_the_time_of_the_run():
    statistics = ModelStatistics()
    statistics.add(5, TIMES, [RequestTiming(2, 0.5), RequestTiming(3, 1.0)])
    totals = statistics.totals()
    assert (totals.inference_count, totals.execution_count) == (5, 1)
    assert totals.batches == {5: PhaseTotals(1, 0.5, 2.0, 0.25)}
    assert totals.compute == PhaseTotals(2, 1.0, 4.0, 0.5)
    assert totals.queue == Duration(2, 1.5)
    assert totals.success == Duration(2, 1.5 + 5.5)


def test_several_runs_of_a_group_share_their_time_equally():
    statistics = ModelStatistics()
    statistics.add(4, TIMES, [RequestTiming(1, 0.5, num_requests=8)], num_runs=2)
    totals = statistics.totals()
    assert (totals.inference_count, totals.execution_count) == (8, 2)
    assert totals.batches == {4: PhaseTotals(2, 0.5, 2.0, 0.25)}
    assert totals.compute == PhaseTotals(8, 2.0, 8.0, 1.0)
    assert totals.queue == Duration(8, 4.0)


def test_requests_have_tokens_and_a_distribution_of_times():
    statistics = ModelStatistics()
    statistics.add(5, TIMES, [RequestTiming(2, 0.5, num_tokens=20), RequestTiming(3, 9.0)])
    statistics.add(1, TIMES, [RequestTiming(1, 0.0, 4, num_tokens=3)], num_runs=4)
    totals = statistics.totals()
    assert totals.tokens == 20 + 4 * 3
    assert totals.seconds.total == totals.success.seconds
    seconds = {b: n for b, n in zip(SECONDS, totals.seconds.counts, strict=False) if n}
    assert seconds == {1.0: 4, 5.0: 1}  # 0.69 s each, and 3.25
    assert totals.seconds.counts[-1] == 1  # 11.75 s


def test_batch_sizes_that_callers_vary_are_counted_together_above_64():
    statistics = ModelStatistics()
    for batch_size in range(1, 5000):
        statistics.add(batch_size, TIMES, [RequestTiming(batch_size, 0.0)])
    totals = statistics.totals()
    assert [*totals.batches] == [*range(1, 65), *(128 << power for power in range(7))]
    assert totals.execution_count == 4999
    assert totals.inference_count == sum(range(1, 5000))


def test_failures_are_counted():
    statistics = ModelStatistics()
    statistics.add_failure(0.5)
    statistics.add_failure(1.0)
    assert statistics.totals().fail == Duration(2, 1.5)


def test_totals_that_were_returned_do_not_change():
    statistics = ModelStatistics()
    statistics.add(1, TIMES, [RequestTiming(1, 0.0)])
    before = statistics.totals()
    statistics.add(1, TIMES, [RequestTiming(1, 0.0)])
    assert (before.inference_count, before.batches[1].count) == (1, 1)
    assert statistics.totals().batches[1].count == 2


def test_memory_does_not_grow_with_the_number_of_runs():
    statistics = ModelStatistics()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            statistics.add(1, TIMES, [RequestTiming(1, 0.0)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_nothing_is_lost_if_threads_add_while_others_ask():
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
