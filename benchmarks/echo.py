"""A server that does nothing: `python -m benchmarks.echo REPLY_BYTES [uvloop]`.

grpc.aio with handlers that take bytes and give bytes, one for calls and one for streams: what gRPC
itself costs in Python. Prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import grpc

from benchmarks.calls import UNLIMITED, RawCall
from benchmarks.report import ROOT
from benchmarks.serving import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["as_stream", "echoing", "has_uvloop"]

SERVICE, METHOD, STREAM = "benchmarks.Echo", "Echo", "EchoStream"


def has_uvloop() -> bool:
    """Whether uvloop, a faster event loop, is installed."""
    return find_spec("uvloop") is not None


@contextmanager
def echoing(request: bytes, reply_bytes: int, *loop: str) -> Iterator[RawCall]:
    """Start such a server, give the call of it, and end it."""
    command = [sys.executable, "-m", "benchmarks.echo", str(reply_bytes), *loop]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert process.stdout
        served = Served(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
        yield RawCall(served, f"/{SERVICE}/{METHOD}", (request,), reply_bytes=reply_bytes)
    finally:
        process.terminate()
        process.communicate()


def as_stream(call: RawCall, like: RawCall) -> RawCall:
    """Give an echo's call as a stream that carries the same messages as another one."""
    method, count = f"/{SERVICE}/{STREAM}", len(like.messages)
    reply_bytes = call.reply_bytes * count
    return replace(like, served=call.served, method=method, reply_bytes=reply_bytes)


async def serve(reply_bytes: int) -> None:
    """Answer every request with the same bytes."""
    reply = os.urandom(reply_bytes)

    async def echo(_request: bytes, _context: object) -> bytes:
        return reply

    async def echo_stream(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while await context.read() is not grpc.aio.EOF:  # type: ignore[comparison-overlap]
            await context.write(reply)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *UNLIMITED])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(echo),
        STREAM: grpc.stream_stream_rpc_method_handler(echo_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main(reply_bytes: str, loop: str = "asyncio") -> None:
    """Serve until terminated."""
    if loop == "uvloop":
        import uvloop

        uvloop.run(serve(int(reply_bytes)))
    else:
        asyncio.run(serve(int(reply_bytes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
