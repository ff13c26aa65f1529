"""When a worker that ended is replaced. tests/integration/test_workers.py tests real workers."""

from __future__ import annotations

import pytest

from polyhead_server.errors import StartupError
from polyhead_server.process.workers.supervisor import _pause_after, serve_with_workers
from polyhead_server.settings import ServerSettings


def pauses(*served):
    """Return the pauses after a worker has ended; each time it had served for so many seconds."""
    last, found = 0.0, []
    for served_s in served:
        last = _pause_after(served_s, last)
        found.append(last)
    return found


def test_a_worker_that_served_for_long_is_replaced_at_once():
    assert pauses(3600.0, 10.0) == [0.0, 0.0]


def test_pauses_grow_up_to_a_bound_if_workers_keep_ending():
    assert pauses(*[0.0] * 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_worker_that_served_for_long_resets_the_pauses():
    assert pauses(0.0, 1.0, 60.0, 0.0) == [0.5, 1.0, 0.0, 0.5]


def test_several_workers_are_refused_on_other_systems_than_linux(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(StartupError, match="--workers needs Linux"):
        serve_with_workers(ServerSettings(workers=2))
