"""Due times and lengths of requests, and how processes share them."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from bench_samples import PLAIN

from polyhead.bench.arrivals import arrival_times
from polyhead.bench.lengths import parse_lengths
from polyhead.bench.payloads import largest_payload, make_payloads
from polyhead.bench.plan import Plan, Workload


def times_of(plan, processes=1):
    """Return the due times of all processes together."""
    shares = [plan.share(index, processes) for index in range(processes)]
    return np.sort([time for share in shares for time in arrival_times(share)])


def test_constant_arrivals_are_evenly_spaced_without_drift():
    plan = Plan(rate=200.0, arrivals="constant", warmup_s=1, duration_s=60)
    times = list(arrival_times(plan))
    assert times[:3] == [-1.0, -0.995, -0.99]
    assert times[200:203] == [0.0, 0.005, 0.01]
    assert times[200 + 10_000] == 50.0
    assert len(times) == 200 * 61


def test_shares_of_constant_arrivals_interleave():
    plan = Plan(rate=300.0, arrivals="constant", warmup_s=0, duration_s=1)
    np.testing.assert_allclose(times_of(plan, 3), np.arange(300) / 300, rtol=0, atol=1e-12)


@pytest.mark.parametrize("processes", [1, 3, 7])
@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
@pytest.mark.parametrize("rate", [10.0, 50.0, 47.3, 5000.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_exactly_the_requested_rate_is_offered(rate, arrivals, seed, processes):
    timed = Plan(rate=rate, arrivals=arrivals, warmup_s=0.5, duration_s=5, seed=seed)
    counted = Plan(rate=rate, arrivals=arrivals, duration_s=None, requests=round(5 * rate))
    for plan in (timed, counted):
        times = times_of(plan, processes)
        measured = times[times >= 0]
        assert len(measured) == round(5 * rate)
        assert measured.max() < 5.02
        assert times.min() >= -plan.warmup_s


def test_arrivals_are_drawn_lazily():
    first = list(islice(arrival_times(Plan(rate=1e12, warmup_s=0)), 10_000))
    assert first == sorted(first)
    assert first[-1] == pytest.approx(1e-8, rel=0.1)


def test_poisson_gaps_are_exponential():
    times = times_of(Plan(rate=200.0, warmup_s=0, duration_s=100, seed=3))
    gaps = np.diff(times, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    for share in (0.1, 0.5, 0.9, 0.99):  # quantiles of an exponential distribution
        assert np.quantile(gaps, share) == pytest.approx(-np.log(1 - share) / 200, rel=0.1)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03  # independent


def test_poisson_arrivals_depend_on_the_seed_alone():
    first, again, other = (
        list(arrival_times(Plan(rate=50.0, duration_s=200, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_shares_of_poisson_arrivals_differ_and_merge_into_poisson_arrivals():
    plan = Plan(rate=400.0, warmup_s=0, duration_s=50, seed=5)
    shares = [tuple(arrival_times(plan.share(index, 4))) for index in range(4)]
    assert len(set(shares)) == 4
    gaps = np.diff(times_of(plan, 4))
    assert gaps.std() == pytest.approx(1 / 400, rel=0.05)  # equals their mean: exponential


@pytest.mark.parametrize(("total", "processes"), [(16, 1), (16, 3), (7, 7), (5, 2)])
def test_shares_sum_to_the_plan(total, processes):
    plan = Plan(concurrency=total, max_in_flight=total, requests=total, seed=9)
    shares = [plan.share(index, processes) for index in range(processes)]
    for name in ("concurrency", "max_in_flight", "requests"):
        parts = [getattr(share, name) for share in shares]
        assert sum(parts) == total
        assert max(parts) - min(parts) <= 1
    assert len({share.seed for share in shares}) == processes


@pytest.mark.parametrize(
    ("text", "lengths"),
    [("16", (16,)), ("4..7", (4, 5, 6, 7)), ("9..9", (9,)), ("16,32,128", (16, 32, 128))],
)
def test_lengths_are_parsed(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "0", "7..4", "4..", "a", "1,0", "-3", "1,,2", "1..9999999"])
def test_invalid_lengths_are_refused(text):
    with pytest.raises(ValueError, match="expected lengths"):
        parse_lengths(text)


@pytest.mark.parametrize("lengths", [(16, 32, 128), tuple(range(4, 257)), (5,)])
def test_each_length_has_an_equal_share_in_random_order(lengths):
    workload = Workload(**(vars_of(PLAIN) | {"lengths": lengths}))
    payloads = make_payloads(workload, seed=1)
    tokens = [payload.tokens for payload in payloads]
    counts = Counter(tokens)
    assert set(counts) == set(lengths)
    assert len(set(counts.values())) == 1
    if len(lengths) > 1:
        assert tokens != sorted(tokens)
        assert tokens != [payload.tokens for payload in make_payloads(workload, seed=2)]


def vars_of(workload):
    return {name: getattr(workload, name) for name in Workload.__slots__}


@pytest.mark.parametrize(
    ("widths", "names"),
    [
        ((8, None, None), {"query"}),
        ((8, 5, None), {"query", "key"}),
        ((8, 8, 3), {"query", "key", "value"}),
    ],
)
def test_payloads_have_the_shapes_of_the_model(widths, names):
    workload = Workload(
        **(vars_of(PLAIN) | {"widths": widths, "batch_size": 3, "dtype": "float16"})
    )
    for payload in (*make_payloads(workload)[:20], largest_payload(workload)):
        arrays = {n: a for n, a in payload.arguments.items() if isinstance(a, np.ndarray)}
        assert set(arrays) == names
        assert payload.tokens == 12
        for name, width in zip(("query", "key", "value"), widths, strict=True):
            if width:
                assert arrays[name].shape == (3, 4, width)
                assert arrays[name].dtype == np.float16
                assert arrays[name].flags.c_contiguous
                assert arrays[name].std() > 0.5


def test_requests_are_different_views_of_one_buffer():
    payloads = make_payloads(Workload(**(vars_of(PLAIN) | {"lengths": tuple(range(1, 100))})))
    assert len({id(payload.arguments["query"].base) for payload in payloads}) <= 4
    of_one_length = [p.arguments["query"] for p in payloads if p.tokens == 50]
    assert any((of_one_length[0] != other).any() for other in of_one_length)
    assert largest_payload(PLAIN).tokens == 4
