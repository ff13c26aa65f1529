"""The vectors of one row of one head: query, keys, values, context, and the steps between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead import ModelUnavailableError, Vectors, Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from polyhead_explorer.reading.reading import Reading

__all__ = ["MissingVectorsError", "row_vectors"]

_TOO_OLD = "EXPORT_TOO_OLD"


class MissingVectorsError(Exception):
    """The model's graph does not return these vectors, because an older polyhead exported it."""

    def __init__(self) -> None:
        super().__init__(
            "An older polyhead exported this model, so it returns no queries and contexts. Export "
            "it again."
        )


async def row_vectors(
    reading: Reading, layer: int, head: int, query: int
) -> dict[str, NDArray[Any]]:
    """Return the vectors of a row by name. Raises PolyheadError and MissingVectorsError.

    The server computes ``query`` (1, head_dim), ``key`` (num_keys, head_dim), ``context`` (1,
    v_head_dim), ``all_contexts`` (1, num_heads x v_head_dim), the contexts of all heads side by
    side, and for blocks ``attended`` (1, width), the row of the output. Computed here are ``terms``
    (num_keys, head_dim), the products of the query's and each key's numbers, and ``weighted``
    (num_keys, v_head_dim), the values times their weights.
    """
    of_head = Vectors(kinds=("query", "key", "value", "context"), heads=head, queries=query)
    of_all_heads = Vectors(kinds="context", queries=query)
    try:
        vectors, attended = await reading.vectors(layer, of_head)
        contexts, _ = await reading.vectors(layer, of_all_heads)
    except ModelUnavailableError as error:
        if error.reason == _TOO_OLD:
            raise MissingVectorsError from error
        raise
    weights = await reading.weights(layer, Weights(heads=head, queries=query))
    arrays: dict[str, NDArray[Any]] = {
        kind: array[0, 0] for kind, array in vectors.arrays().items()
    }
    named = {
        "query": arrays["query"],
        "key": arrays["key"],
        "context": arrays["context"],
        "terms": arrays["query"] * arrays["key"],
        "weighted": arrays["value"] * weights[0, 0, :, None],
        "all_contexts": contexts.arrays()["context"][0].reshape(1, -1),
    }
    if attended is not None:
        named["attended"] = np.asarray(attended[query : query + 1])
    return named
