"""A raw-bytes server: `python -m benchmarks.harness.echo RESPONSE_BYTES`.

Its grpc.aio handlers take and return bytes, one handler for calls and one for streams. So it shows
the cost of gRPC itself in Python. With `--graph` each call also runs a graph on prepared arrays,
which shows the cost of gRPC and ONNX Runtime together. It prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.blocks import random_embeddings
from benchmarks.harness.calls import UNLIMITED, RawCall
from benchmarks.harness.in_process import load_graph
from benchmarks.harness.serving import ServerProcess
from benchmarks.report import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Graph", "has_uvloop", "start_echo", "stream_like"]

SERVICE, METHOD, STREAM = "benchmarks.Echo", "Echo", "EchoStream"
FLOAT_BYTES = 4


def has_uvloop() -> bool:
    """Whether uvloop, a faster event loop, is installed."""
    return find_spec("uvloop") is not None


@dataclass(frozen=True)
class Graph:
    """A graph that the server runs in each call, as self-attention of one sequence."""

    file: Path
    embed_dim: int
    seq_lens: Sequence[int]
    """Lengths of the requests. If there are several, a request's size decides which one runs."""
    need_weights: bool = False

    def flags(self) -> list[str]:
        """Return the server's flags for this graph."""
        flags = ["--graph", str(self.file), "--embed-dim", str(self.embed_dim)]
        flags += ["--seq-lens", *map(str, self.seq_lens)]
        return [*flags, *["--need-weights"] * self.need_weights]

    def load(self) -> Callable[[bytes], object]:
        """Load the graph. Returns a function that runs it for a request."""
        run = load_graph(self.file, need_weights=self.need_weights)
        runs = {
            seq_len: partial(run, random_embeddings(seq_len, self.embed_dim))
            for seq_len in self.seq_lens
        }
        if len(runs) == 1:
            [only_run] = runs.values()
            return lambda _request: only_run()
        row_bytes = self.embed_dim * FLOAT_BYTES  # more than all other fields of a request
        return lambda request: runs[len(request) // row_bytes]()


@contextmanager
def start_echo(
    request: bytes, response_bytes: int, loop: str = "asyncio", graph: Graph | None = None
) -> Iterator[RawCall]:
    """Start the server, and stop it at the end. Yields a call to it."""
    command = [sys.executable, "-m", "benchmarks.harness.echo", str(response_bytes), "--loop", loop]
    command += graph.flags() if graph else []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        assert process.stdout
        served = ServerProcess(f"127.0.0.1:{int(process.stdout.readline())}", process.pid)
        yield RawCall(served, f"/{SERVICE}/{METHOD}", (request,), response_bytes=response_bytes)
    finally:
        process.terminate()
        process.communicate()


def stream_like(call: RawCall, stream: RawCall) -> RawCall:
    """Turn the server's call into a stream with the messages of another stream."""
    method, count = f"/{SERVICE}/{STREAM}", len(stream.messages)
    response_bytes = call.response_bytes * count
    return replace(stream, served=call.served, method=method, response_bytes=response_bytes)


async def serve(response_bytes: int, run: Callable[[bytes], object] | None = None) -> None:
    """Answer every request with the same bytes, after ``run``."""
    response = os.urandom(response_bytes)

    async def echo(_request: bytes, _context: object) -> bytes:
        return response

    async def run_and_echo(request: bytes, _context: object) -> bytes:
        assert run
        run(request)
        return response

    async def echo_stream(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while await context.read() is not grpc.aio.EOF:  # type: ignore[comparison-overlap]
            await context.write(response)

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *UNLIMITED])
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        METHOD: grpc.unary_unary_rpc_method_handler(run_and_echo if run else echo),
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
    parser.add_argument("response_bytes", type=int)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--graph", type=Path, help="run this ONNX file in each call")
    parser.add_argument("--embed-dim", type=int, default=1)
    parser.add_argument("--seq-lens", type=int, nargs="+", default=[1])
    parser.add_argument("--need-weights", action="store_true")
    arguments = parser.parse_args()
    run = None
    if file := arguments.graph:
        embed_dim, seq_lens = arguments.embed_dim, arguments.seq_lens
        run = Graph(file, embed_dim, seq_lens, arguments.need_weights).load()
    serving = serve(arguments.response_bytes, run)
    if arguments.loop == "uvloop":
        import uvloop

        uvloop.run(serving)
    else:
        asyncio.run(serving)


if __name__ == "__main__":
    main()
