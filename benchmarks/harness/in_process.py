"""ONNX Runtime in this process without a server: the baseline of servers that compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from benchmarks.harness.cases import repeat_function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.harness.cases import Case

__all__ = ["load_graph", "run_in_process"]


def run_in_process(
    file: Path, queries: Sequence[NDArray[Any]], *, need_weights: bool = False
) -> Case:
    """Make a case that runs a graph on each of the queries in turn, with one thread."""
    run = load_graph(file, need_weights=need_weights)

    def run_each() -> None:
        for query in queries:
            run(query)

    return repeat_function(run_each, len(queries))


def load_graph(file: Path, *, need_weights: bool) -> Callable[[NDArray[Any]], object]:
    """Load a graph for one thread. Returns a function that runs self-attention of a query."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it would warn about inputs that have defaults
    session = ort.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    names = ["output", *(["attn_weights"] if need_weights else [])]
    extra = {"need_weights": np.asarray(need_weights)} if need_weights else {}

    def run(query: NDArray[Any]) -> object:
        return session.run(names, {"query": query, "key": query, "value": query, **extra})

    return run
