"""Take the vectors of heads out of the graph's outputs, where heads lie side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_server.engine.device import on_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_models.config import AttentionConfig
    from polyhead_server.head_vectors import VectorsSelection

__all__ = ["select_vectors", "graph_outputs", "names_by_row", "split", "take"]


def graph_outputs(selection: VectorsSelection, config: AttentionConfig) -> list[str]:
    """Return the names of the graph's outputs that vectors are taken from."""
    changed = [f"projected_{kind}" for kind in config.changed_inputs if kind in selection.kinds]
    return [*changed, "context"] if "context" in selection.kinds else changed


def names_by_row(selection: VectorsSelection, config: AttentionConfig) -> list[str]:
    """Return the names of graph_outputs that have a row for each query."""
    names = graph_outputs(selection, config)
    return [name for name in names if name in ("projected_query", "context")]


def take(array: NDArray[Any], sequences: slice, rows: NDArray[np.int64] | None) -> NDArray[Any]:
    """Return some rows of some sequences; None means all rows."""
    return array[sequences] if rows is None else np.ascontiguousarray(array[sequences, rows])


def split(array: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """View (batch_size, seq_len, heads side by side) as (batch_size, num_heads, seq_len, width)."""
    return on_host(array).reshape(*array.shape[:2], num_heads, -1).swapaxes(1, 2)


def select_vectors(
    array: NDArray[Any], kind: str, selection: VectorsSelection, config: AttentionConfig
) -> NDArray[Any]:
    """Select heads and keys from the vectors of a kind. Queries have been selected before."""
    if selection.heads:
        array = array[:, list(selection.heads_of(kind, config))]
    if selection.keys and kind in ("key", "value"):
        array = array[:, :, list(selection.keys)]
    return array
