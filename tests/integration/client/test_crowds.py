"""Thousands of concurrent calls, and servers that refuse every call."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

import polyhead
from polyhead.v1 import attention_pb2_grpc

QUERY = np.ones((1, 2, 16), np.float32)


class Refusing(attention_pb2_grpc.AttentionServiceServicer):
    """A service that refuses and counts all calls."""

    def __init__(self, code):
        self._code = code
        self.num_calls = 0

    def Attend(self, request, context):
        self.num_calls += 1
        context.abort(self._code, "not now")


@contextmanager
def refusing(code):
    servicer = Refusing(code)
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    attention_pb2_grpc.add_AttentionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with polyhead.Client(f"127.0.0.1:{port}") as client:
            yield client, servicer
    finally:
        server.stop(0).wait()


def test_two_thousand_concurrent_calls_are_all_answered(server):
    """With gRPC's defaults some calls above a thousand would be cancelled."""

    async def crowd():
        async with polyhead.AsyncClient(server.target) as client:
            calls = (client.attend(QUERY, model="plain") for _ in range(2000))
            return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = Counter(type(outcome).__name__ for outcome in asyncio.run(crowd()))
    assert outcomes == {"AttentionResult": 2000}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_every_call_is_tried_five_times(code):
    """This includes calls that are made after others have failed."""
    with refusing(code) as (client, servicer):
        for number in range(1, 4):
            with pytest.raises(polyhead.ServerUnavailableError, match="not now") as caught:
                client.attend(QUERY, model="plain")
            assert caught.value.code == code.name
            assert servicer.num_calls == 5 * number
