"""polyhead's own clients, over calls and over streams."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract import models
from tests.contract.arrays import assert_output, assert_weights, draw

import polyhead
from polyhead_models.reference import attention as reference

MODEL = "contract-plain"
QUERIES = [draw(1, 1 + number % 7, 16, seed=number) for number in range(60)]


def expected(query):
    return reference.attend(models.blocks()[MODEL], query)


@pytest.mark.parametrize("transport", ["unary", "stream"])
def test_the_client(target, client_settings, transport):
    with polyhead.Client(target, transport=transport, **client_settings) as client:
        result = client.attend(QUERIES[6], model=MODEL, need_weights=True, request_id="one")
        output, weights = expected(QUERIES[6])
        assert_output(result.output, output)
        assert_weights(result.attn_weights, weights)
        assert result.request_id == "one"
        with pytest.raises(polyhead.InvalidArgumentError) as caught:
            client.attend(draw(1, 3, 15), model=MODEL)
        assert "query" in next(iter(caught.value.fields))
        with pytest.raises(polyhead.ModelNotFoundError):
            client.attend(QUERIES[0], model="missing")


def test_many_requests(client):
    requests = [{"query": query, "model": MODEL} for query in QUERIES]
    for query, result in zip(QUERIES, client.attend_many(requests), strict=True):
        assert_output(result.output, expected(query)[0])


def test_rows(client):
    query = draw(1, 9, 16)
    with client.attend_rows(query, model=MODEL, rows_per_block=4) as blocks:
        rows = list(blocks)
    assert_weights(rows[0].attn_weights, expected(query)[1][:, :, :4])
    assert len(rows) == 3


def test_a_whole_model(client):
    result = client.forward(model="contract-bert", token_ids=[[5, 9, 2]], need_weights={0: True})
    assert result.output.shape[:2] == (1, 3)


def test_the_async_client(target, client_settings):
    async def run():
        async with polyhead.AsyncClient(target, **client_settings) as client:
            with pytest.raises(polyhead.InvalidArgumentError):
                await client.attend(draw(1, 3, 15), model=MODEL)
            return await asyncio.gather(*(client.attend(each, model=MODEL) for each in QUERIES))

    for query, result in zip(QUERIES, asyncio.run(run()), strict=True):
        assert_output(result.output, expected(query)[0])
