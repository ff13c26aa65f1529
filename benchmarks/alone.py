"""ONNX Runtime in this process, without a service around it: what a service is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from benchmarks.load import repeated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.load import Case

__all__ = ["alone", "graph_runs"]


def alone(file: Path, queries: Sequence[NDArray[Any]], *, need_weights: bool = False) -> Case:
    """Make a case: ``session.run`` on each of the arrays in turn, with one thread."""
    return repeated(graph_runs(file, queries, need_weights=need_weights), len(queries))


def graph_runs(
    file: Path, queries: Sequence[NDArray[Any]], *, need_weights: bool
) -> Callable[[], None]:
    """Load a graph; give what runs it on each of the arrays in turn, with one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns of inputs that have defaults
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(str(file), options, providers)
    names = ["output", *(["attn_weights"] if need_weights else [])]
    all_feeds = [dict.fromkeys(("query", "key", "value"), query) for query in queries]
    if need_weights:
        for feeds in all_feeds:
            feeds["need_weights"] = np.asarray(need_weights)

    def run() -> None:
        for feeds in all_feeds:
            session.run(names, feeds)

    return run
