"""A server that does nothing: `python -m benchmarks.harness.echo REPLY_BYTES`.

grpc.aio with handlers that take bytes and give bytes, one for calls and one for streams: what gRPC
itself costs in Python. With `--graph` a call also runs a graph, on arrays that are there already:
what gRPC and ONNX Runtime cost together. Prints the port that it listens on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import UNLIMITED, RawCall
from benchmarks.harness.in_process import graph_runs
from benchmarks.harness.serving import Served
from benchmarks.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Graph", "as_stream", "echoing", "has_uvloop"]

SERVICE, METHOD, STREAM = "benchmarks.Echo", "Echo", "EchoStream"


def has_uvloop() -> bool:
    """Whether uvloop, a faster event loop, is installed."""
    return find_spec("uvloop") is not None


@dataclass(frozen=True)
class Graph:
    """What a server runs that otherwise does nothing: self-attention of one sequence."""

    file: Path
    seq_len: int
    embed_dim: int
    need_weights: bool = False

    def flags(self) -> list[str]:
        """Give it as flags of such a server."""
        sizes = ["--seq-len", str(self.seq_len), "--embed-dim", str(self.embed_dim)]
        return ["--graph", str(self.file), *sizes, *["--need-weights"] * self.need_weights]

    def runs(self) -> Callable[[], None]:
        """Load it; give what runs it once."""
        query = random_embeddings(self.seq_len, self.embed_dim)
        return graph_runs(self.file, [query], need_weights=self.need_weights)


@contextmanager
def echoing(
    request: bytes, reply_bytes: int, loop: str = "asyncio", graph: Graph | None = None
) -> Iterator[RawCall]:
    """Start such a server, give the call of it, and end it."""
    command = [sys.executable, "-m", "benchmarks.harness.echo", str(reply_bytes), "--loop", loop]
    command += graph.flags() if graph else []
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


async def serve(reply_bytes: int, work: Callable[[], None] | None = None) -> None:
    """Answer every request with the same bytes."""
    reply = os.urandom(reply_bytes)

    async def echo(_request: bytes, _context: object) -> bytes:
        return reply

    async def work_and_echo(_request: bytes, _context: object) -> bytes:
        assert work
        work()
        return reply

    async def echo_stream(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while await context.read() is not grpc.aio.EOF:  # type: ignore[comparison-overlap]
            await context.write(reply)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *UNLIMITED])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(work_and_echo if work else echo),
        STREAM: grpc.stream_stream_rpc_method_handler(echo_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reply_bytes", type=int)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--graph", type=Path, help="run this ONNX file in each call")
    parser.add_argument("--seq-len", type=int, default=1)
    parser.add_argument("--embed-dim", type=int, default=1)
    parser.add_argument("--need-weights", action="store_true")
    told = parser.parse_args()
    work = None
    if told.graph:
        work = Graph(told.graph, told.seq_len, told.embed_dim, told.need_weights).runs()
    serving = serve(told.reply_bytes, work)
    if told.loop == "uvloop":
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)


if __name__ == "__main__":
    main()
