"""Every request gets its own answer while others call, fail or leave."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polyhead
from polyhead_models.reference import attention as reference


def constant_output(block, constant):
    """What a model answers where every value is one constant, whatever the weights: they sum to 1.

    A leak between requests shows at once where each has its own.
    """
    config = block.config
    query, key = np.zeros((1, 1, config.embed_dim)), np.zeros((1, 1, config.kdim))
    return reference.attend(block, query, key, np.full((1, 1, config.vdim), constant))[0][0, 0]


def canary(number, blocks):
    """A request's arguments, of a kind of its own, and the constant row that must come back."""
    rng = np.random.default_rng(number)
    name = ("plain", "cross", "causal", "no-bias")[number % 4]
    config = blocks[name].config
    batch_size, q_seq_len = (1, 2, 16)[number % 3], int(rng.integers(1, 90))
    kv_seq_len = q_seq_len if number % 5 else q_seq_len + 3
    constant = float(number % 97 - 48)
    arguments = {
        "model": name,
        "key": rng.standard_normal((batch_size, kv_seq_len, config.kdim), dtype=np.float32),
        "value": np.full((batch_size, kv_seq_len, config.vdim), constant, np.float32),
        "need_weights": number % 7 == 0,
        "request_id": f"canary {number}",
    }
    if number % 3 == 1:
        arguments["kv_lengths"] = rng.integers(1, kv_seq_len + 1, batch_size)
    query = rng.standard_normal((batch_size, q_seq_len, config.embed_dim), dtype=np.float32)
    return query, arguments, constant_output(blocks[name], constant)


def assert_canary(result, arguments, expected):
    assert result.request_id == arguments["request_id"]
    everywhere = np.broadcast_to(expected, result.output.shape)
    np.testing.assert_allclose(result.output, everywhere, rtol=0, atol=1e-4)


def test_threads_get_their_own_answers_while_others_fail(server, client, blocks):
    def attend(number):
        query, arguments, expected = canary(number, blocks)
        if number % 11 == 0:
            query[0, 0, 0] = np.nan
            with pytest.raises(polyhead.InvalidArgumentError):
                client.attend(query, **arguments)
            return
        assert_canary(client.attend(query, **arguments), arguments, expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attend, range(240)))


def test_tasks_get_their_own_answers_while_others_are_cancelled(server, blocks):
    async def attend(client, number):
        query, arguments, expected = canary(number, blocks)
        task = asyncio.create_task(client.attend(query, **arguments))
        if number % 5 == 0:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            return
        assert_canary(await task, arguments, expected)

    async def everyone():
        async with polyhead.AsyncClient(server.target) as client:
            await asyncio.gather(*(attend(client, number) for number in range(240)))

    asyncio.run(everyone())
