"""When requests of a load are due, how long they are, and how processes share them."""

from __future__ import annotations

from collections import Counter
from itertools import islice, takewhile

import numpy as np
import pytest

from polyhead.bench.arrivals import arrival_times
from polyhead.bench.lengths import parse_lengths
from polyhead.bench.payloads import largest_payload, make_payloads
from polyhead.bench.plan import Plan, Workload

PLAIN = Workload(
    model="m",
    version=1,
    widths=(8, None, None),
    lengths=(4,),
    batch_size=1,
    dtype="float32",
    need_weights=False,
)


def test_constant_arrivals_are_evenly_spaced_without_drift():
    times = list(islice(arrival_times(200, "constant"), 10_001))
    assert times[:3] == [0.0, 0.005, 0.01]
    assert times[10_000] == 50.0


def test_shares_of_constant_arrivals_interleave():
    plan = Plan(rate=300.0, arrivals="constant")
    shares = [plan.share(index, 3) for index in range(3)]
    times = sorted(
        time
        for share in shares
        for time in islice(arrival_times(share.rate, "constant", phase=share.phase), 100)
    )
    np.testing.assert_allclose(times, np.arange(300) / 300, rtol=0, atol=1e-12)


def test_poisson_gaps_are_exponential():
    times = np.array(list(islice(arrival_times(200, "poisson", seed=3), 20_000)))
    gaps = np.diff(times, prepend=0.0)
    assert (gaps > 0).all()
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    for share in (0.1, 0.5, 0.9, 0.99):  # of an exponential distribution
        assert np.quantile(gaps, share) == pytest.approx(-np.log(1 - share) / 200, rel=0.1)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.03  # independent


def test_poisson_arrivals_depend_on_the_seed_alone():
    first, again, other = (
        list(islice(arrival_times(50, "poisson", seed=seed), 9000)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_shares_of_poisson_arrivals_differ_and_add_up():
    plan = Plan(rate=400.0, seed=5)
    counts = []
    for index in range(4):
        share = plan.share(index, 4)
        times = arrival_times(share.rate, "poisson", seed=share.seed)
        counts.append(len(list(takewhile(lambda time: time < 50, times))))
    assert len(set(counts)) > 1
    assert sum(counts) == pytest.approx(20_000, rel=0.03)


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
def test_lengths_are_read(text, lengths):
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize("text", ["", "0", "7..4", "4..", "a", "1,0", "-3", "1,,2", "1..9999999"])
def test_other_lengths_are_refused(text):
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


def test_requests_are_views_of_one_buffer_and_not_all_alike():
    payloads = make_payloads(Workload(**(vars_of(PLAIN) | {"lengths": tuple(range(1, 100))})))
    assert len({id(payload.arguments["query"].base) for payload in payloads}) <= 4
    of_one_length = [p.arguments["query"] for p in payloads if p.tokens == 50]
    assert any((of_one_length[0] != other).any() for other in of_one_length)
    assert largest_payload(PLAIN).tokens == 4
