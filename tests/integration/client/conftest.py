"""A client of a fake server that fails on demand; the folder above tests the real server."""

from __future__ import annotations

import pytest
from fake_server import FakeServer, start

import polyhead


@pytest.fixture
def fake():
    fake = FakeServer()
    server = start(fake)
    yield fake
    fake.release.set()
    server.stop(None).wait()


@pytest.fixture
def connected(fake):
    with polyhead.Client(fake.target, timeout=30) as client:
        yield client
