"""One row of one head in vectors: from the query and the keys to what the head makes of them."""

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
    """An older polyhead exported the model, whose graph does not give these vectors."""

    def __init__(self) -> None:
        super().__init__(
            "An older polyhead exported this model, and it gives no queries and contexts. Export "
            "it again."
        )


async def row_vectors(
    reading: Reading, layer: int, head: int, query: int
) -> dict[str, NDArray[Any]]:
    """Return the vectors of a row by name. Raises PolyheadError and MissingVectorsError.

    ``query`` (1, head_dim), ``key`` (num_keys, head_dim) and ``context`` (1, v_head_dim) are the
    server's, as are ``all_contexts`` (1, num_heads x v_head_dim), those of all heads side by side,
    and ``attended`` (1, width), what the attention adds to the token, for blocks only. ``terms``
    (num_keys, head_dim) are the products of the query's and each key's numbers, and ``weighted``
    (num_keys, v_head_dim) the values times their weights.
    """
    wanted = Vectors(kinds=("query", "key", "value", "context"), heads=head, queries=query)
    everyone = Vectors(kinds="context", queries=query)
    try:
        own, attended = await reading.vectors(layer, wanted)
        together, _ = await reading.vectors(layer, everyone)
    except ModelUnavailableError as error:
        if error.reason == _TOO_OLD:
            raise MissingVectorsError from error
        raise
    weights = await reading.weights(layer, Weights(heads=head, queries=query))
    arrays: dict[str, NDArray[Any]] = {kind: array[0, 0] for kind, array in own.arrays().items()}
    named = {
        "query": arrays["query"],
        "key": arrays["key"],
        "context": arrays["context"],
        "terms": arrays["query"] * arrays["key"],
        "weighted": arrays["value"] * weights[0, 0, :, None],
        "all_contexts": together.arrays()["context"][0].reshape(1, -1),
    }
    if attended is not None:
        named["attended"] = np.asarray(attended[query : query + 1])
    return named
