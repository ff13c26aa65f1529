"""The search for the highest rate, with servers of known capacity."""

from __future__ import annotations

import errno
import io

import numpy as np
import pytest
from bench_samples import samples

from polyhead.bench.plan import Plan
from polyhead.bench.report.progress import show_progress
from polyhead.bench.report.summary import summarise
from polyhead.bench.report.text import describe_found, format_search
from polyhead.bench.samples import ErrorType
from polyhead.bench.search.bisection import MAX_STEPS, SearchResult, Step, find_max
from polyhead.bench.search.max_rate import MaxRate, Objective, search_max

OBJECTIVE = Objective(slo_p99_s=0.05, precision=0.05)


def search(is_within, *, first_rate=50.0, precision=0.05):
    def measure(rate, purpose, num_left):
        outcome = is_within(rate)
        return outcome if outcome is None else make_step(rate, outcome, purpose)

    return find_max(measure, first_rate=first_rate, precision=precision)


def make_step(rate, is_within, purpose="doubling"):
    return Step(
        rate=rate,
        p99_ms=10.0 if is_within else 90.0,
        failed=0,
        is_within=is_within,
        is_cut_short=not is_within,
        purpose=purpose,
    )


@pytest.mark.parametrize("capacity", [3.0, 49.0, 50.0, 51.0, 777.0, 12_345.0])
@pytest.mark.parametrize("precision", [0.05, 0.2])
def test_the_capacity_is_found_within_the_precision(capacity, precision):
    found = search(lambda rate: rate <= capacity, precision=precision)
    assert found.is_complete
    assert capacity * (1 - precision) <= found.rate <= capacity
    assert [step.purpose for step in found.steps[-2:]] == ["verification"] * 2
    assert all(step.rate == found.rate and step.is_within for step in found.steps[-2:])


@pytest.mark.parametrize("capacity", [0.5, 3.0, 30.0, 55.0, 170.0, 12_345.0])
def test_the_search_reports_the_least_number_of_remaining_runs(capacity):
    said = []

    def measure(rate, purpose, num_left):
        said.append((purpose, num_left))
        return make_step(rate, rate <= capacity, purpose)

    find_max(measure, first_rate=50.0, precision=0.05)
    after = list(range(len(said)))[::-1]
    assert all(num_left <= count for (_, num_left), count in zip(said, after, strict=True))
    # the bisection's estimate is exact but for runs that are repeated
    verifications = [num_left for purpose, num_left in said if purpose == "verification"]
    assert verifications == ([1, 0] if capacity > 1 else [])
    bisection = [num_left for purpose, num_left in said if purpose == "bisection"]
    assert bisection[:1] == ([5] if capacity > 1 else [])  # three halvings, two verifications


def test_no_rate_is_found_if_none_is_within():
    found = search(lambda rate: False)
    assert found == SearchResult(rate=None, steps=found.steps, is_complete=True)
    assert found.steps[-1].rate >= 1
    assert "No rate was found with p99 within 50 ms" in words(found)


def test_one_hiccup_is_repeated():
    runs = []

    def hiccup(rate):
        runs.append(rate)
        return rate <= 1000 and len(runs) != 2

    found = search(hiccup)
    assert 950 <= found.rate <= 1000
    assert runs[:3] == [50, 100, 100]


def test_a_rate_within_by_chance_is_not_verified():
    """From 300 to 390 only the first run of each rate is within."""
    seen = set()

    def lucky(rate):
        is_first = rate not in seen
        seen.add(rate)
        return rate <= 300 or (is_first and rate <= 390)

    found = search(lucky)
    assert 285 <= found.rate <= 300
    assert len(found.steps) < MAX_STEPS


def test_a_search_ends_after_max_steps():
    found = search(lambda rate: True)
    assert len(found.steps) == MAX_STEPS
    assert not found.is_complete
    assert found.rate is None


class FastFleet:
    """Carries out every plan with the same latencies, and records the plans."""

    is_interrupted = False

    def __init__(self):
        self.plans = []

    def run(self, plan, watch):
        self.plans.append(plan)
        return samples([10.0 if plan.rate <= 60 else 90.0] * 300)


def test_every_run_of_a_search_has_its_own_arrivals():
    seeds = set()
    for seed in (0, 1):
        fleet = FastFleet()
        with show_progress() as display:
            found = search_max(fleet, Plan(rate=50.0, seed=seed, duration_s=5), OBJECTIVE, display)
        assert [step.purpose for step in found.search.steps[-2:]] == ["verification"] * 2
        assert len({plan.seed for plan in fleet.plans}) == len(fleet.plans) > 4
        assert not seeds & {plan.seed for plan in fleet.plans}
        seeds |= {plan.seed for plan in fleet.plans}


def test_an_interrupted_search_reports_the_best_rate():
    found = search(lambda rate: True if rate < 400 else None)
    assert [step.rate for step in found.steps] == [50, 100, 200]
    assert not found.is_complete
    assert words(found) == (
        "The search ended early, after 3 steps: 200 requests/s kept p99 within 50 ms and no "
        "errors once."
    )


def words(found):
    summary = summarise(samples([10.0] * 100), Plan()) if found.rate else None
    return describe_found(MaxRate(search=found, verification=summary), OBJECTIVE)


def test_a_search_is_reported_as_table_and_sentence():
    found = search(lambda rate: rate <= 100, precision=0.5)
    assert words(found) == (
        "The highest rate with p99 within 50 ms and no errors is 100 requests/s (160 tokens/s), to "
        "within 5%; two further runs confirmed it."
    )
    verification = summarise(samples([10.0] * 100), Plan())
    heading, *rows = format_search(MaxRate(search=found, verification=verification)).splitlines()
    assert heading.split() == ["STEP", "RATE/S", "P99", "MS", "FAILED", "VERDICT"]
    assert rows[0].split() == ["doubling", "50", "10.0", "0", "within"]
    assert rows[2].split() == ["doubling", "200", "90.0", "0", "beyond,", "cut", "short"]
    assert "The last verification:" in rows


def test_a_step_reports_its_failure_and_the_remaining_time(capsys):
    class Full(FastFleet):
        """Fails above 60 requests a second, and is slow above 70."""

        def run(self, plan, watch):
            if plan.rate > 70:
                return samples([90.0] * 300)
            if plan.rate <= 60:
                return samples([10.0] * 300)
            return samples(
                [10.0] * 300,
                failures=np.array([[0.5, 0.1, 0]] * 3),
                error_types=(ErrorType("RESOURCE_EXHAUSTED", "QUEUE_FULL"),),
                error_messages=("full",),
            )

    with show_progress() as display:
        found = search_max(Full(), Plan(rate=50.0, duration_s=5), OBJECTIVE, display)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("50 requests/s, p99 10.0 ms: within; at least 36 s more")
    assert "100 requests/s, p99 90.0 ms: beyond (p99 above 50 ms); at least" in lines[1]
    assert any("beyond (3 failed, QUEUE_FULL); at least" in line for line in lines)
    assert lines[-1].endswith("verification: 59.375 requests/s, p99 10.0 ms: within")
    table = format_search(found)
    assert "beyond: p99 above 50 ms" in table
    assert "beyond: 3 failed, QUEUE_FULL" in table


def test_a_stderr_that_cannot_be_written_does_not_end_a_search(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    with show_progress() as display:
        display.line("50 requests a second: within")
