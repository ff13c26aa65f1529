"""Measures the gain of small calls from bound arrays: `python -m benchmarks.bound_call`.

Each call goes from a request's bytes to a response's inside the service, without gRPC.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

import numpy as np

from benchmarks.report import print_now, table
from benchmarks.repository import MODEL, exported
from polyhead.v1 import attention_pb2 as pb
from polyhead.wire.tensors import to_tensor
from polyhead_server.deadline import Deadline
from polyhead_server.engine.runtime import Engine
from polyhead_server.limits import LoadLimits
from polyhead_server.repository.model_loads import ModelLoads
from polyhead_server.repository.repository import Repository
from polyhead_server.repository.source import FolderSource
from polyhead_server.rpc.call_context import CallContext
from polyhead_server.scheduling.scheduler import Scheduler
from polyhead_server.services.attention.service import AttentionService
from polyhead_server.settings import ServerSettings

_BLOCKS = ((6, 2, 10), (64, 4, 16), (384, 12, 1))
"""Width, heads and tokens; each block runs inline."""
_ROUNDS, _CALLS = 9, 400


def _requests(embed_dim: int, num_tokens: int, request_id: str) -> list[bytes]:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((20, 1, num_tokens, embed_dim)).astype(np.float32)
    return [
        pb.AttendRequest(
            model=MODEL, query=to_tensor(query), request_id=request_id
        ).SerializeToString()
        for query in queries
    ]


async def _microseconds(service: AttentionService, requests: list[bytes]) -> float:
    started = time.perf_counter()
    for number in range(_CALLS):
        context = CallContext("Attend", Deadline(None))
        await service.attend(requests[number % len(requests)], context)
    return (time.perf_counter() - started) / _CALLS * 1e6


async def _measure(embed_dim: int, num_heads: int, num_tokens: int) -> list[str]:
    """Compare calls, in turns, with calls that have an id, which are never bound."""
    with exported(embed_dim, num_heads) as model:
        engine = Engine("cpu", {}, threads=1, spinning=False, max_scores_bytes=64 << 20)
        repository = Repository()
        loads = ModelLoads(
            repository, FolderSource(model.folder), engine, LoadLimits(), all_versions=False
        )
        await loads.load_all()
        scheduler, settings = Scheduler(1, 8, 1 << 30), ServerSettings()
        service = AttentionService(repository, scheduler, settings, asyncio.Event())
        cases = [_requests(embed_dim, num_tokens, request_id) for request_id in ("", "a")]
        rounds = [[await _microseconds(service, case) for case in cases] for _ in range(_ROUNDS)]
        bound, as_job = (median(times) for times in zip(*rounds, strict=True))
        return [
            f"{num_tokens} x {embed_dim}",
            f"{bound:.0f}",
            f"{as_job:.0f}",
            f"{bound / as_job:.2f}",
        ]


def _main() -> None:
    rows = [asyncio.run(_measure(*block)) for block in _BLOCKS]
    print_now(table(["tokens x width", "in place, us", "as a job, us", "ratio"], rows))


if __name__ == "__main__":
    _main()
