"""Triton's own clients, against a server of ours."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tritonclient_requests import stock, stock_aio


@pytest.fixture
def stock_client(server):
    """Triton's blocking client."""
    with stock.InferenceServerClient(server.target) as connected:
        yield connected


@pytest.fixture
def with_stock_aio(server):
    """Run a scenario with Triton's asynchronous client."""

    def with_stock_aio(scenario):
        async def connected():
            async with stock_aio.InferenceServerClient(server.target) as client:
                return await asyncio.wait_for(scenario(client), 60)

        return asyncio.run(connected())

    return with_stock_aio


@pytest.fixture
def draw():
    """Draw embeddings."""
    rng = np.random.default_rng(11)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return draw
