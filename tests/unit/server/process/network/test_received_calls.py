"""The calls of a server are counted, whether Python sees them or not."""

from __future__ import annotations

import asyncio

import grpc

from polyhead_server.process.network.received_calls import CountedServer


def test_the_calls_of_each_server_are_counted():
    async def scenario():
        servers = [CountedServer([]) for _ in range(2)]
        ports = [counted.server.add_insecure_port("127.0.0.1:0") for counted in servers]
        for counted in servers:
            await counted.server.start()
        for port, count in zip(ports, (3, 1), strict=True):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                for _ in range(count):  # there is no such method
                    assert await channel.unary_unary("/a.Service/Do")(b"").code() is not None
        return [counted.num_received() for counted in servers], servers

    async def closed():
        numbers, servers = await scenario()
        for counted in servers:
            await counted.server.stop(None)
        return numbers

    assert asyncio.run(closed()) == [3, 1]
