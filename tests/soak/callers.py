"""One client process: `python -m tests.soak.callers KIND ADDRESS SEED`, until it is killed.

Each second it prints how many calls were answered, and how many were refused or given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "support"))

import grpc
import numpy as np
from raw_http2 import Ended, RawConnection
from tests.fuzz import CORPUS

import polyhead
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor

PAUSE_S = 0.01
"""Between two calls, so that a few callers leave most of a CPU to the server."""
_SERVICE = "/polyhead.v1.AttentionService/"
_METHODS = {
    "attend_requests": "/polyhead.v1.AttentionService/Attend",
    "forward_requests": "/polyhead.v1.AttentionService/Forward",
    "infer_requests": "/inference.GRPCInferenceService/ModelInfer",
}


class Counts:
    """How a process's calls ended."""

    def __init__(self):
        self.answered = self.failed = 0

    @contextlib.contextmanager
    def one(self, *expected):
        """Count a call that is answered, or fails with an error that is expected."""
        try:
            yield
            self.answered += 1
        except (polyhead.PolyheadError, grpc.RpcError, OSError, Ended, *expected):
            self.failed += 1

    def print_for_ever(self):
        while True:
            time.sleep(1)
            answered, failed = self.answered, self.failed
            self.answered, self.failed = self.answered - answered, self.failed - failed
            print(answered, failed, flush=True)


def _query(rng, max_length=64):
    length = rng.randint(1, max_length)
    return np.full((1, length, 6), rng.random(), np.float32)


def unary(address, rng, counts):
    """Good calls of all kinds, some of which have too little time."""
    with polyhead.Client(address, timeout=20) as client:
        while True:
            timeout = rng.choice([20, 20, 20, 0.002])
            with counts.one():
                match rng.randrange(4):
                    case 0:
                        list(client.attend_rows(_query(rng), model="river-bank", rows_per_block=8))
                    case 1:
                        client.forward("the river bank", model="bert", timeout=timeout)
                    case _:
                        weights = rng.random() < 0.3
                        result = client.attend(
                            _query(rng), model="river-bank", need_weights=weights, timeout=timeout
                        )
                        assert np.isfinite(result.output).all()
            time.sleep(PAUSE_S)


def streams(address, rng, counts):
    """Requests over streams, of which many are cancelled."""

    async def call(client):
        with counts.one():
            await client.attend(_query(rng), model="river-bank")

    async def call_for_ever():
        while True:
            async with polyhead.AsyncClient(address, timeout=20, transport="stream") as client:
                for _ in range(20):
                    calls = [asyncio.create_task(call(client)) for _ in range(8)]
                    await asyncio.sleep(rng.choice([0, PAUSE_S]))
                    for each in rng.sample(calls, 3):
                        each.cancel()
                    await asyncio.wait(calls)
                    await asyncio.sleep(4 * PAUSE_S)
                rows = client.attend_rows(_query(rng), model="river-bank", rows_per_block=4)
                async for _ in rows:
                    break

    asyncio.run(call_for_ever())


def rubbish(address, rng, counts):
    """Inputs of the fuzzer, with a few bytes changed; and bytes that are not HTTP/2."""
    inputs = {
        method: [file.read_bytes() for file in sorted((CORPUS / target).iterdir())]
        for target, method in _METHODS.items()
    }
    with grpc.insecure_channel(address) as channel:
        while True:
            method = rng.choice(list(inputs))
            data = bytearray(rng.choice(inputs[method]))
            for _ in range(rng.randrange(3)):
                data[rng.randrange(len(data)) if data else 0 :] = rng.randbytes(rng.randrange(20))
            with counts.one():
                channel.unary_unary(method)(bytes(data), timeout=20)
            if rng.random() < 0.05:
                host, port = address.rsplit(":", 1)
                with counts.one(), socket.create_connection((host, int(port)), 5) as connection:
                    connection.sendall(rng.randbytes(200))
                    connection.recv(100)
            time.sleep(PAUSE_S)


def unread(address, rng, counts):
    """Replies that nobody takes, requests without their end, streams that are reset."""
    query = np.zeros((1, 500, 6), np.float32)
    selection = pb.AttnWeightsSelection()
    request = pb.AttendRequest(model="river-bank", query=to_tensor(query), attn_weights=selection)
    message = request.SerializeToString()
    while True:
        with counts.one(), RawConnection(address, window=rng.choice([0, 0, 4096])) as connection:
            for _ in range(rng.randint(1, 6)):
                kind = rng.randrange(3)
                stream = connection.open(
                    _SERVICE + rng.choice(["Attend", "AttendStream"]),
                    message,
                    end=kind == 0,
                    sent=None if kind == 0 else rng.randrange(len(message)),
                )
                if kind == 2:
                    connection.reset(stream)
            time.sleep(rng.choice([0.1, 0.5, 8.0]))  # the last is longer than the server waits


KINDS = {each.__name__: each for each in (unary, streams, rubbish, unread)}


def main():
    kind, address, seed = sys.argv[1:]
    counts = Counts()
    threading.Thread(target=counts.print_for_ever, daemon=True).start()
    KINDS[kind](address, random.Random(int(seed)), counts)


if __name__ == "__main__":
    main()
