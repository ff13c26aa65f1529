"""The calls of a server are counted, whether Python sees them or not."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from threading import Thread

import grpc
from raw_http2 import RawConnection

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


NUM_WAITING = 2
OPTIONS = [
    ("grpc.server.max_pending_requests", NUM_WAITING),
    ("grpc.server.max_pending_requests_hard_limit", NUM_WAITING),
]


class Answering(grpc.GenericRpcHandler):
    """Refuses all calls with a status."""

    def service(self, _):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, _, context):
        context.set_code(grpc.StatusCode.NOT_FOUND)
        return b""


def test_calls_without_an_answer_are_counted_by_address():
    """One address's calls are answered; of the others' those that gRPC drops count."""

    async def scenario():
        counted = CountedServer(OPTIONS)
        counted.server.add_generic_rpc_handlers((Answering(),))
        target = f"127.0.0.1:{counted.server.add_insecure_port('127.0.0.1:0')}"
        await counted.server.start()
        with ExitStack() as connections:

            def connect(address):
                return connections.enter_context(RawConnection(target, address=address))

            polite = await asyncio.to_thread(connect, "127.0.0.2")
            stream = await asyncio.to_thread(polite.open, "/a.Service/Do", b"", end=True)
            await asyncio.to_thread(polite.wait_for_end, stream)
            crowd = [await asyncio.to_thread(connect, "127.0.0.3") for _ in range(2)]

            def flood():
                for one in crowd:
                    for _ in range(50):
                        one.open("/a.Service/Do", b"", end=True)
                    one.wait_until_read()

            flooding = Thread(target=flood)
            flooding.start()
            flooding.join()  # this keeps Python from answering, so gRPC drops the calls
            numbers = counted.num_unanswered({"127.0.0.2", "127.0.0.3", "127.0.0.4"})
        await counted.server.stop(None)
        return numbers

    numbers = asyncio.run(scenario())
    assert numbers["127.0.0.2"] == 0
    assert 100 - NUM_WAITING <= numbers["127.0.0.3"] <= 100
    assert numbers["127.0.0.4"] == 0
