"""Calls through a proxy that replaces handlers as Serve's does, to a replica, without Ray."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from polyhead.v1 import attention_pb2 as pb
from polyhead.v1 import attention_pb2_grpc
from polyhead.wire.tensors import to_tensor
from polyhead_server.process.app import App
from polyhead_server.ray.answer import TIME_REMAINING
from polyhead_server.ray.call import ReplicaCall
from polyhead_server.ray.calls import ReplicaCalls
from polyhead_server.ray.contracts import methods
from polyhead_server.ray.proxy import add_services_to_server
from polyhead_server.settings import ServerSettings

SMALL = pb.AttendRequest(model="river-bank", query=to_tensor(np.ones((1, 3, 6), np.float32)))


class Proxy:
    """A server whose handlers call a replica, as those of Serve's proxy do."""

    def __init__(self, calls):
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._calls = calls
        self.contexts = []
        self.fails_with = None
        self.num_failures = 1

    def add_generic_rpc_handlers(self, handlers):
        [service] = handlers
        service._method_handlers = {
            path: handler._replace(
                unary_unary=self._unary(path),
                stream_stream=self._stream(path),
            )
            for path, handler in service._method_handlers.items()
        }
        self.server.add_generic_rpc_handlers(handlers)

    def _unary(self, path):
        async def handle(request, context):
            self.contexts.append(context)
            if self.fails_with and len(self.contexts) <= self.num_failures:
                context.set_code(self.fails_with)
                context.set_details("ActorDiedError at 10.0.0.1")
                return b""
            return await self._calls.answer(path, ReplicaCall(context, one(request)))

        return handle

    def _stream(self, path):
        async def handle(messages, context):
            sends_messages = path.endswith(("AttendStream", "ModelStreamInfer"))
            call = ReplicaCall(context, messages, sends_messages=sends_messages)
            async for answer in self._calls.answers(path, call):
                yield answer

        return handle


async def one(message):
    yield message


@asynccontextmanager
async def proxied(options=()):
    """Yield a proxy before a replica, and a stub of it; ``options``: of the channel."""
    calls = ReplicaCalls()
    app = App(ServerSettings(threads=1), call_source=calls)
    await app.start()
    proxy = Proxy(calls)
    add_services_to_server(None, proxy)
    port = proxy.server.add_insecure_port("127.0.0.1:0")
    await proxy.server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield proxy, attention_pb2_grpc.AttentionServiceStub(channel)
    finally:
        await proxy.server.stop(None)
        await app.drain()


def test_only_the_versions_of_reflection_share_the_name_of_a_method():
    names = Counter(method.name for method in methods())
    assert {name for name, count in names.items() if count > 1} == {"ServerReflectionInfo"}
    assert len(names) > 20


def test_a_call_passes_its_metadata_on():
    async def run():
        async with proxied() as (proxy, stub):
            sent = [("x-request-id", "abc"), (TIME_REMAINING, "1e9")]
            response = await stub.Attend(SMALL, timeout=20, metadata=sent)
            return response, proxy.contexts[0]

    response, context = asyncio.run(run())
    assert response.HasField("output")
    passed_on = dict(context.invocation_metadata())
    seconds = passed_on[TIME_REMAINING]
    assert (passed_on["x-request-id"], passed_on["request_id"]) == ("abc", "abc")
    assert 0 < float(seconds) <= 21  # gRPC rounds timeouts up
    call = ReplicaCall(context, one(b""))
    assert call.time_remaining() == float(seconds)
    assert TIME_REMAINING not in dict(call.invocation_metadata())


def test_errors_keep_their_details():
    async def run():
        async with proxied() as (_, stub):
            request = pb.AttendRequest(model="missing", query=SMALL.query)
            with pytest.raises(grpc.aio.AioRpcError) as unary:
                await stub.Attend(request)
            with pytest.raises(grpc.aio.AioRpcError) as stream:
                await anext(aiter(stub.AttendRows(pb.AttendRowsRequest(call=request))))
            return unary.value, stream.value

    for error in asyncio.run(run()):
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        assert b"google.rpc.ErrorInfo" in details


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        (grpc.StatusCode.INTERNAL, (grpc.StatusCode.UNAVAILABLE, False)),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (grpc.StatusCode.RESOURCE_EXHAUSTED, True)),
    ],
)
def test_what_serve_itself_refuses(code, seen):
    async def run():
        async with proxied() as (proxy, stub):
            proxy.fails_with = code
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Attend(SMALL)
            return caught.value

    error = asyncio.run(run())
    assert (error.code(), "ActorDied" in error.details()) == seen


def test_stock_clients_can_retry_unanswered_calls():
    policy = {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s"}
    policy |= {"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})

    async def run():
        async with proxied([("grpc.service_config", config)]) as (proxy, stub):
            proxy.fails_with = grpc.StatusCode.INTERNAL
            response = await stub.Attend(SMALL)
            return response, len(proxy.contexts)

    response, num_calls = asyncio.run(run())
    assert response.HasField("output")
    assert num_calls == 2


def test_a_call_that_the_server_cuts_off_is_cancelled():
    async def run():
        calls, began = ReplicaCalls(), asyncio.Event()

        class Handler(grpc.GenericRpcHandler):
            def service(self, _):
                return grpc.stream_unary_rpc_method_handler(self.serve)

            async def serve(self, _, __):
                self.task = asyncio.current_task()
                began.set()
                await asyncio.Event().wait()

        handler = Handler()
        await calls.start([handler])
        async with proxied() as (proxy, stub):
            await stub.Attend(SMALL)
            call = ReplicaCall(proxy.contexts[0], one(b""))
        answering = asyncio.create_task(calls.answer("/any", call))
        await began.wait()
        handler.task.cancel()
        return await answering

    assert asyncio.run(run()).code is grpc.StatusCode.CANCELLED
