"""A client of a server that fails as it is told to. The real one is tested in the folder above."""

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
