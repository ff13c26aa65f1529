"""When a worker that ended is replaced. What real ones do: tests/integration/test_workers.py."""

from __future__ import annotations

import pytest

from polyhead_server.errors import StartupError
from polyhead_server.process import supervisor as workers
from polyhead_server.process.supervisor import serve_with_workers
from polyhead_server.settings import ServerSettings


def pauses(*served):
    """The pause after each of a worker's lives, which lasted so many seconds."""
    last, found = 0.0, []
    for served_s in served:
        last = workers._pause_after(served_s, last)
        found.append(last)
    return found


def test_a_worker_that_has_served_for_long_is_replaced_at_once():
    assert pauses(3600.0, 10.0) == [0.0, 0.0]


def test_workers_that_keep_ending_are_replaced_ever_later_up_to_a_bound():
    assert pauses(*[0.0] * 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_long_life_ends_the_waiting():
    assert pauses(0.0, 1.0, 60.0, 0.0) == [0.5, 1.0, 0.0, 0.5]


def test_elsewhere_than_on_linux_workers_are_refused(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(StartupError, match="--workers needs Linux"):
        serve_with_workers(ServerSettings(workers=2))
