"""Check selections of attention weights and of heads' vectors against their model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.engine.runs.heads import graph_outputs
from polyhead_server.errors import InvalidRequestError, ModelUnavailableError, quoted

if TYPE_CHECKING:
    from polyhead_server.call import WeightsSelection
    from polyhead_server.engine.model import Model
    from polyhead_server.head_vectors import VectorsSelection

__all__ = ["check_gives_vectors", "check_selection", "check_vectors"]


def check_gives_vectors(model: Model, selection: VectorsSelection) -> None:
    """Raise ModelUnavailableError if a model's graph lacks outputs for the selected vectors."""
    if not {*graph_outputs(selection, model.config)} <= model.output_names:
        kinds = [kind for kind in selection.kinds if kind in ("query", "context")]
        raise ModelUnavailableError(
            f"model {quoted(model.name)}, version {model.version}, gives no "
            f"{' and no '.join(kinds)} vectors, because an older polyhead exported it; export it "
            "again",
            "EXPORT_TOO_OLD",
        )


def check_selection(
    field: str, weights: WeightsSelection, num_heads: int, q_seq_len: int
) -> WeightsSelection:
    """Return a selection of weights that fits a block. Raises InvalidRequestError."""
    _check_indices(f"{field}.heads", weights.heads, num_heads, "num_heads")
    _check_indices(f"{field}.queries", weights.queries, q_seq_len, "q_seq_len")
    if weights.top_k < 0:
        raise InvalidRequestError(
            f"{field}.top_k", f"expected 0 or more; got {weights.top_k}", "OUT_OF_RANGE"
        )
    return weights


def check_vectors(
    field: str, vectors: VectorsSelection, num_heads: int, lengths: tuple[int, int]
) -> VectorsSelection:
    """Return a selection of vectors that fits a block. Raises InvalidRequestError.

    ``lengths``: the number of queries, and of keys.
    """
    q_seq_len, kv_seq_len = lengths
    _check_indices(f"{field}.heads", vectors.heads, num_heads, "num_heads")
    _check_indices(f"{field}.queries", vectors.queries, q_seq_len, "q_seq_len")
    _check_indices(f"{field}.keys", vectors.keys, kv_seq_len, "kv_seq_len")
    return vectors


def _check_indices(path: str, indices: tuple[int, ...], count: int, count_name: str) -> None:
    if len(indices) > count:
        raise InvalidRequestError(
            path, f"expected at most {count_name} = {count} indices; got {len(indices)}", "TOO_MANY"
        )
    for position, index in enumerate(indices):
        if not 0 <= index < count:
            raise InvalidRequestError(
                f"{path}[{position}]",
                f"expected 0 to {count_name} - 1 = {count - 1}; got {index}",
                "OUT_OF_RANGE",
            )
    if len(set(indices)) < len(indices):
        raise InvalidRequestError(path, "expected no index twice", "DUPLICATE")
