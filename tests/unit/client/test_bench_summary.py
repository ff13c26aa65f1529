"""Percentiles, counts and warnings of known samples."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from bench_samples import samples

from polyhead.bench.plan import Plan, Target, Workload
from polyhead.bench.report.summary import percentile, summarise
from polyhead.bench.report.text import describe_load, describe_plan, format_summary
from polyhead.bench.samples import ErrorType, Recorder, Samples
from polyhead.errors import ResourceExhaustedError, ServerError
from polyhead.results import Execution

FULL = ErrorType("RESOURCE_EXHAUSTED", "QUEUE_FULL")
OTHER = ErrorType("INTERNAL", "")


@pytest.mark.parametrize(
    ("count", "per_mille", "expected"),
    [
        (1000, 500, 500),
        (1000, 900, 900),
        (1000, 990, 990),
        (1000, 999, 999),
        (1001, 999, 1000),
        (100, 999, 100),
        (100, 990, 99),
        (3, 500, 2),
        (2, 500, 1),
        (1, 999, 1),
    ],
)
def test_a_percentile_is_the_nearest_rank(count, per_mille, expected):
    assert percentile(np.arange(1.0, count + 1), per_mille) == expected


def test_latencies_are_computed_from_the_samples():
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 1001))
    latency = summarise(samples(shuffled), Plan()).latency_ms
    figures = [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max, latency.mean]
    np.testing.assert_allclose(figures, [500, 900, 990, 999, 1000, 500.5])


def test_rates_are_counts_divided_by_time():
    summary = summarise(samples(np.ones(250)), Plan())
    assert summary.elapsed_s == 10
    assert summary.requests_per_s == 25
    assert summary.tokens_per_s == 400
    assert summary.server.queue_ms_p50 == 0.5
    assert summary.server.compute_ms_p50 == 2.5
    assert summary.server.batch_size_mean == 4
    assert summary.generator.cpu_ms_per_request == 4
    assert summary.generator.busiest_core_share == 0.1


def test_throughput_counts_arrivals_and_latency_all_answers():
    summary = summarise(samples(np.ones(250), arrived=240, arrived_tokens=3600), Plan())
    assert (summary.answered, summary.arrived) == (250, 240)
    assert summary.requests_per_s == 24
    assert summary.tokens_per_s == 360


def test_failures_are_reported_separately():
    failures = np.array([[0.0, 0.001, 0], [1.0, 0.002, 1], [2.0, 0.003, 1]])
    summary = summarise(
        samples(
            [100, 100],
            sent=6,
            failures=failures,
            error_types=(OTHER, FULL),
            error_messages=("broke", "full"),
        ),
        Plan(),
    )
    assert (summary.answered, summary.failed, summary.unfinished) == (2, 3, 1)
    assert summary.latency_ms.p50 == 100
    assert summary.error_latency_ms.p50 == pytest.approx(2)
    assert [(e.code, e.reason, e.count, e.message) for e in summary.errors] == [
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 2, "full"),
        ("INTERNAL", "", 1, "broke"),
    ]
    text = format_summary(summary)
    assert "2 answered, 3 failed, 1 unfinished" in text
    assert "RESOURCE_EXHAUSTED  QUEUE_FULL" in text
    assert "such as: full" in text


def test_samples_of_processes_are_merged():
    def part(kind, message, **changes):
        failures = np.array([[0.0, 0.001, 0]])
        return samples(
            [1, 2],
            sent=3,
            failures=failures,
            error_types=(kind,),
            error_messages=(message,),
            **changes,
        )

    merged = Samples.merged(
        [
            part(FULL, "full", cpu_s=(2.0,), held_back=1),
            part(OTHER, "broke", cpu_s=(9.0,), elapsed_s=12.0, is_stopped=True),
            part(FULL, "full again", cpu_s=(1.0,), held_back=2),
        ]
    )
    assert merged.sent == 9
    assert len(merged.answers) == len(merged.lags) == 6
    assert merged.held_back == 3
    assert merged.elapsed_s == 12
    assert (merged.arrived, merged.arrived_tokens) == (6, 96)
    assert merged.is_stopped
    assert merged.unfinished == 0
    summary = summarise(merged, Plan())
    assert {(error.code, error.count) for error in summary.errors} == {
        ("RESOURCE_EXHAUSTED", 2),
        ("INTERNAL", 1),
    }
    assert summary.generator.processes == 3
    assert summary.generator.busiest_core_share == 0.75
    assert summary.generator.cpu_ms_per_request == pytest.approx(12 / 9 * 1e3)


def test_a_recorder_ignores_requests_due_before_the_origin():
    execution = Execution(
        model="m", model_version=1, provider="", kernel="", queue_ms=1, compute_ms=2, batch_size=3
    )
    recorder = Recorder(50.0, slow_after_s=0.5, end=52.0)
    recorder.sent = 5
    full = ResourceExhaustedError("full", code=FULL.code, reason=FULL.reason)
    recorder.record_start(49.0, 9.0)
    recorder.record_start(51.0, 0.25)
    recorder.record_answer(49.0, 49.5, 16, execution)  # warm-up
    recorder.record_answer(49.0, 50.5, 10, execution)  # warm-up, answered in the measurement
    recorder.record_failure(49.0, 50.5, full)
    recorder.record_answer(51.0, 51.5, 16, execution)
    recorder.record_answer(51.0, 52.0, 16, execution)
    recorder.record_answer(51.5, 52.5, 16, execution)  # after the end
    recorder.record_failure(51.5, 53.0, ServerError("the reply holds no array"))
    recorder.record_failure(51.5, 54.0, full)
    kept = recorder.to_samples(ended=60.0, cpu_s=1.0, is_stopped=False)
    assert kept.answers[:, :3].tolist() == [[1, 0.5, 16], [1, 1, 16], [1.5, 1, 16]]
    assert kept.answers[:, 3:].tolist() == [[1, 2, 3]] * 3
    assert kept.failures.tolist() == [[1.5, 1.5, 0], [1.5, 2.5, 1]]
    assert kept.error_types == (ErrorType("ServerError", ""), FULL)
    assert kept.lags.tolist() == [0.25]
    assert kept.elapsed_s == 10
    assert (recorder.num_answered, recorder.num_failed, recorder.num_slow) == (3, 2, 2)
    assert (kept.arrived, kept.arrived_tokens) == (3, 42)
    assert recorder.last_arrival == 52


def test_a_healthy_run_has_no_warnings():
    assert summarise(samples(np.ones(100)), Plan(rate=10.0)).warnings == ()


@pytest.mark.parametrize(
    ("changes", "plan", "message"),
    [
        ({"cpu_s": (1.0, 9.0)}, Plan(), "busy for 90% of the time.*--processes 3"),
        ({"lags": np.full(100, 0.02)}, Plan(rate=10.0), "sent late: 1 in 100 by 20.0 ms"),
        (
            {"elapsed_s": 0.019, "cpu_s": (0.001,)},
            Plan(),
            "short for a p99 of 1 ms.*--duration 1, and a --warmup",
        ),
        ({"held_back": 12}, Plan(rate=10.0, max_in_flight=64), "12 requests had to wait, as 64"),
    ],
)
def test_doubtful_runs_have_a_warning(changes, plan, message):
    summary = summarise(samples(np.ones(100), **changes), plan)
    (warning,) = summary.warnings
    assert re.search(message, warning)
    assert f"warning: {warning[:40]}" in format_summary(summary)


def test_lags_cause_no_warning_in_a_closed_loop():
    assert summarise(samples(np.ones(100), lags=np.full(100, 0.02)), Plan()).warnings == ()


def test_a_run_without_answers_is_reported():
    failed = samples(
        sent=2,
        failures=np.array([[0.0, 0.1, 0], [0.1, 0.1, 0]]),
        error_types=(OTHER,),
        error_messages=("broke",),
    )
    summary = summarise(failed, Plan())
    assert summary.latency_ms is None
    assert summary.server is None
    assert "0 answered, 2 failed" in format_summary(summary)


def test_a_run_stopped_in_the_warmup_has_no_figures():
    summary = summarise(samples(elapsed_s=0.0), Plan())
    assert format_summary(summary) == "nothing was measured\n"


def test_a_report_describes_the_load():
    workload = Workload(
        model="bert",
        version=2,
        widths=(8, None, None),
        lengths=(4, 5, 6),
        batch_size=2,
        dtype="float32",
        need_weights=True,
    )
    target = Target(server="host:1", timeout_s=1)
    assert describe_load(target, workload) == (
        "bert, version 2, at host:1: 2 x 4..6 tokens, float32, with attention weights"
    )
    assert describe_load(replace(target, transport="stream"), workload).endswith(", over streams")
    assert "2 x 16,32 tokens" in describe_load(target, replace(workload, lengths=(16, 32)))
    assert describe_plan(Plan(rate=50.0, duration_s=2), 3) == (
        "open loop, 50 requests/s, poisson arrivals; 2 s after 1 s of warm-up; processes: 3"
    )
    assert describe_plan(Plan(requests=9, duration_s=None), 1).startswith(
        "closed loop, 16 in flight; 9 requests after"
    )
