"""A server that answers small requests, on its event loop, does not take itself for idle."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
from raw_calls import SERVICE

from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.process.app import App
from polyhead_server.settings import ServerSettings


async def unary(channel, call):
    """Send a request by Attend, and wait for the response."""
    assert await channel.unary_unary(SERVICE + "Attend")(call.SerializeToString())


async def streamed(channel, call):
    """Send a request by AttendStream, and wait for the response."""
    stream = channel.stream_stream(SERVICE + "AttendStream")()
    requests = [pb.StreamedRequest(id=1, call=call)]
    await stream.write(pb.AttendStreamRequest(requests=requests).SerializeToString())
    [reply] = pb.AttendStreamResponse.FromString(await stream.read()).replies
    assert reply.HasField("response")
    await stream.done_writing()
    assert await stream.read() == grpc.aio.EOF


@pytest.mark.parametrize("send", [unary, streamed])
def test_each_small_request_renews_idle_since(send):
    async def scenario():
        app = App(ServerSettings(port=0))
        await app.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
                models = await channel.unary_unary(SERVICE + "ListModels")(b"")
                [model] = pb.ListModelsResponse.FromString(models).models
                query = to_tensor(np.ones((1, 2, model.spec.embed_dim), np.float32))
                call = pb.AttendRequest(model=model.name, query=query)
                assert app.idle_since is None
                before = 0.0
                for _ in range(3):
                    await send(channel, call)
                    async with asyncio.timeout(10):
                        # the response counts until it is written
                        while app.idle_since is None:  # noqa: ASYNC110 - nothing announces it
                            await asyncio.sleep(0)
                    assert app.idle_since > before
                    before = app.idle_since
        finally:
            await app.drain()

    asyncio.run(scenario())
