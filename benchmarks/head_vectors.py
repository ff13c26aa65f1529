"""Measures the cost of the outputs for vectors of heads: `python -m benchmarks.head_vectors`.

A graph with these outputs is compared, in turns, with the same graph without them, and a run that
requests them with a run that does not.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort

from benchmarks.blocks import random_embeddings
from benchmarks.report import print_now, table
from polyhead_models.config import AttentionConfig
from polyhead_models.graph import build_model
from polyhead_models.random_block import random_block

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCKS = ((64, 4, 16, 2000), (768, 12, 128, 200))
"""Width, heads and tokens; and how many runs."""
_VECTORS = ("projected_query", "projected_key", "projected_value", "context")
_NEW = ("projected_query", "context")
"""Those that are outputs for vectors alone."""


def _without_outputs(model: bytes) -> bytes:
    graph = onnx.ModelProto.FromString(model)
    for output in [each for each in graph.graph.output if each.name in _NEW]:
        graph.graph.output.remove(output)
    return graph.SerializeToString()


def _ratio(measured: Callable[[], object], against: Callable[[], object], count: int) -> float:
    """Return the ratio of the median times of two functions, which take turns."""
    times: tuple[list[float], list[float]] = [], []
    for number in range(count):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            started = time.perf_counter()
            (measured, against)[which]()
            times[which].append(time.perf_counter() - started)
    return median(times[0]) / median(times[1])


def _row(embed_dim: int, num_heads: int, num_tokens: int, count: int) -> list[str]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = build_model(
        random_block(AttentionConfig(embed_dim=embed_dim, num_heads=num_heads), seed=0)
    )
    with_outputs, without = (
        ort.InferenceSession(each, options, providers=["CPUExecutionProvider"])
        for each in (model, _without_outputs(model))
    )
    embeddings = random_embeddings(num_tokens, embed_dim)
    feeds = dict.fromkeys(("query", "key", "value"), embeddings)
    declared = _ratio(
        lambda: with_outputs.run(["output"], feeds), lambda: without.run(["output"], feeds), count
    )
    named = _ratio(
        lambda: with_outputs.run(["output", *_VECTORS], feeds),
        lambda: with_outputs.run(["output"], feeds),
        count,
    )
    return [f"{num_tokens} x {embed_dim}", f"{declared:.3f}", f"{named:.3f}"]


def _main() -> None:
    rows = [_row(*block) for block in _BLOCKS]
    print_now(table(["tokens x width", "declared / not declared", "named / not named"], rows))


if __name__ == "__main__":
    _main()
