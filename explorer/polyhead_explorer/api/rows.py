"""Endpoints of one row of attention: its stages, and its vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polyhead import Weights
from polyhead_explorer.reading.vectors import MissingVectorsError, row_vectors
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from polyhead.types import Stage
    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.web.bodies import Body

__all__ = ["row", "vectors"]

_MAX_NUMBERS = 64
_MATHEMATICS = (
    "head_dim",
    "scale",
    "softcap",
    "is_causal",
    "sliding_window",
    "has_alibi",
    "relative_buckets",
    "has_sinks",
)
_STAGES: tuple[Stage, ...] = ("scores", "masked", "weights")


async def row(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield one row at each stage: ``layer``, ``query``, ``head`` (null means all heads)."""
    reading = await subjects.reading(body)
    layer = body.number("layer", 0, len(reading.layers) - 1)
    head = body.optional_number("head", 0, reading.layers[layer].num_heads - 1)
    query = body.number("query", 0, len(reading.tokens) - 1)
    heads = () if head is None else (head,)
    arrays = {}
    for stage in _STAGES:
        selection = Weights(heads=heads, queries=query, stage=stage)
        arrays[stage] = (await reading.weights(layer, selection))[:, 0]
    spec = reading.spec(layer)
    mathematics = {name: getattr(spec, name) for name in _MATHEMATICS}
    place = {"layer": layer, "head": head, "query": query}
    yield encode_frame({**place, "spec": mathematics}, **arrays)


async def vectors(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the input of ``layer``, and the vectors of row ``query`` of its ``head``.

    The response has the first 64 numbers of each vector and its length (``NAME_length``), the
    number of its numbers (``sizes``), and the sum of each key's terms (``products``).
    """
    reading = await subjects.reading(body)
    layer = body.number("layer", 0, len(reading.layers) - 1)
    head = body.number("head", 0, reading.layers[layer].num_heads - 1)
    query = body.number("query", 0, len(reading.tokens) - 1)
    states = np.asarray(await reading.states(layer))
    named, reason = {"entering": states}, ""
    try:
        named |= await row_vectors(reading, layer, head, query)
    except MissingVectorsError as error:
        reason = str(error)
    arrays = {name: vectors[:, :_MAX_NUMBERS] for name, vectors in named.items()}
    for name, vectors in named.items():
        arrays[f"{name}_length"] = np.linalg.norm(vectors, axis=-1)
    if not reason:
        arrays["products"] = named["terms"].sum(axis=-1)
    place = {"layer": layer, "head": head, "query": query}
    sizes = {name: vectors.shape[-1] for name, vectors in named.items()}
    about = {"sizes": sizes, "dimensions": reading.dimensions, "reason": reason}
    yield encode_frame({**place, **about}, **arrays)
