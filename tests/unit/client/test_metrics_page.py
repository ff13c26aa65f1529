"""What `polyhead top` reads of two metrics pages."""

from __future__ import annotations

import pytest

from polyhead.cli.servers.metrics_page import Interval, MetricsPage

BEFORE = """\
# HELP polyhead_queue_requests Requests that wait
# TYPE polyhead_queue_requests gauge
polyhead_queue_requests{worker="1"} 3.0
polyhead_queue_requests{worker="2"} 4.0
polyhead_model{model="b",provider="CPU",version="2",worker="1"} 1.0
polyhead_model{model="b",provider="CPU",version="2",worker="2"} 1.0
polyhead_model{model="a \\"quoted\\"",provider="CPU",version="1"} 1.0
made_total{model="b"} 1e3
seconds_bucket{le="0.1",model="b"} 10.0
seconds_bucket{le="1.0",model="b"} 10.0
seconds_bucket{le="+Inf",model="b"} 10.0
"""
AFTER = """\
made_total{model="b"} 1500.0
seconds_bucket{le="0.1",model="b"} 60.0
seconds_bucket{le="1.0",model="b"} 100.0
seconds_bucket{le="+Inf",model="b"} 110.0
seconds_count{model="b"} 100.0
seconds_sum{model="b"} 50.0
"""


@pytest.fixture
def interval():
    return Interval(MetricsPage.parse(BEFORE, 10.0), MetricsPage.parse(AFTER, 12.0))


def test_workers_are_added_up_and_models_are_listed_once(interval):
    assert interval.before.total("polyhead_queue_requests") == 7
    assert interval.before.total("polyhead_queue_requests", worker="2") == 4
    assert interval.before.largest("polyhead_queue_requests") == 4
    assert interval.before.total("there_is_none") == interval.before.largest("there_is_none") == 0
    assert interval.before.models() == [('a \\"quoted\\"', "1"), ("b", "2")]


def test_rates_are_by_the_second_and_survive_a_restart(interval):
    assert interval.rate("made_total", model="b") == 250
    restarted = Interval(interval.after, MetricsPage.parse('made_total{model="b"} 10', 14.0))
    assert restarted.rate("made_total", model="b") == 5


@pytest.mark.parametrize(
    ("share", "seconds"),
    [(0.25, 0.05), (0.5, 0.1), (0.7, 0.55), (0.9, 1.0), (0.99, 1.0)],
)
def test_quantiles_lie_between_the_bounds_of_their_bucket(interval, share, seconds):
    assert interval.quantile(share, "seconds", model="b") == pytest.approx(seconds)


def test_nothing_counted_has_no_mean_and_no_quantile(interval):
    assert interval.mean("seconds", model="b") == 0.5
    same = Interval(interval.after, MetricsPage.parse(AFTER, 13.0))
    assert same.mean("seconds", model="b") is None
    assert same.quantile(0.5, "seconds", model="b") is None
    assert interval.quantile(0.5, "there_is_none") is None
