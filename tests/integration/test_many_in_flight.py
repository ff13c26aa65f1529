"""A stock client that keeps one connection busy has an answer to each call."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
from raw_calls import SERVICE
from serving import serving

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

CALLS, IN_FLIGHT = 2000, 400


def test_no_call_of_a_busy_connection_is_refused():
    query = np.ones((1, 200, 6), np.float32)
    request = pb.AttendRequest(model="river-bank", query=to_tensor(query)).SerializeToString()

    async def call_in_turns(address):
        async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
            attend = channel.unary_unary(SERVICE + "Attend")
            left = iter(range(CALLS))

            async def caller():
                for _ in left:
                    await attend(request, timeout=60)

            await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))

    with serving("--threads", 1) as server:
        asyncio.run(call_in_turns(server.address))
