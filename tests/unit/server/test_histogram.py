"""Histograms count as Prometheus' do: a value that equals a bound is counted there."""

from __future__ import annotations

from polyhead_server.histogram import Histogram


def test_values_are_counted_up_to_their_bound():
    histogram = Histogram((1.0, 2.0, 4.0))
    for value in (0.5, 1.0, 1.5, 4.0, 4.5):
        histogram.add(value)
    histogram.add(3.0, times=2)
    assert histogram.counts == [2, 1, 3, 1]
    assert histogram.total == 0.5 + 1.0 + 1.5 + 4.0 + 4.5 + 6.0
