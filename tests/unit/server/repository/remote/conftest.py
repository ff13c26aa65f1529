from __future__ import annotations

import pytest
from model_store import model_store


@pytest.fixture
def store():
    with model_store() as store:
        yield store
