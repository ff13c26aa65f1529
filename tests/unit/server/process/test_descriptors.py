"""How many connections are let in where descriptors are few."""

import resource

import pytest

from polyhead_server.process.resources.descriptors import connections_that_fit

NO_LIMIT = resource.RLIM_INFINITY


@pytest.fixture
def limited(monkeypatch):
    """Let the process have these limits, and return what it sets."""

    def limit(soft, hard):
        changes = []
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(resource, "setrlimit", lambda _, limits: changes.append(limits))
        return changes

    return limit


@pytest.mark.parametrize(
    ("soft", "hard", "may_raise", "fit", "changes"),
    [
        (NO_LIMIT, NO_LIMIT, True, 1000, []),
        (1064, 1064, True, 1000, []),
        (256, 4096, True, 1000, [(1064, 4096)]),
        (256, NO_LIMIT, True, 1000, [(1064, NO_LIMIT)]),
        (256, 512, True, 448, [(512, 512)]),
        (256, 4096, False, 192, []),
        (32, 32, True, 1, [(32, 32)]),
    ],
)
def test_connections_that_fit(limited, soft, hard, may_raise, fit, changes):
    changed = limited(soft, hard)
    assert connections_that_fit(1000, may_raise=may_raise) == fit
    assert changed == changes
