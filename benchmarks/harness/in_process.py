"""ONNX Runtime in this process, without a service around it: what a service is measured against."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from benchmarks.harness.cases import repeated
from polyhead_models.config import COMPACT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.harness.cases import Case

__all__ = ["alone", "graph_runs"]


def alone(file: Path, queries: Sequence[NDArray[Any]], *, need_weights: bool = False) -> Case:
    """Make a case: ``session.run`` on each of the arrays in turn, with one thread."""
    return repeated(graph_runs(file, queries, need_weights=need_weights), len(queries))


def graph_runs(
    file: Path, queries: Sequence[NDArray[Any]], *, need_weights: bool
) -> Callable[[], None]:
    """Load a graph; give what runs it on each of the arrays in turn, with one thread.

    Of small blocks that is the compact graph, as in the server.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns of inputs that have defaults
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(str(file), options, providers)
    compact = session.get_modelmeta().custom_metadata_map.get(COMPACT_KEY)
    if compact:
        session = ort.InferenceSession(b64decode(compact), options, providers)
    names = ["output", *(["attn_weights"] if need_weights else [])]
    inputs = ["query"] if compact else ["query", "key", "value"]
    all_feeds = [dict.fromkeys(inputs, query) for query in queries]
    if need_weights and not compact:
        for feeds in all_feeds:
            feeds["need_weights"] = np.asarray(need_weights)

    def run() -> None:
        for feeds in all_feeds:
            session.run(names, feeds)

    return run
