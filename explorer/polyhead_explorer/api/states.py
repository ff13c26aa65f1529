"""Hidden states: what enters each layer, and a token's path in a plane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_explorer.reading.path import Followed, lay_out
from polyhead_explorer.web.errors import BadRequestError
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.web.bodies import Body

__all__ = ["path", "states"]


async def states(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """What enters each layer and leaves the last: a frame each. ``tokens``: which (all)."""
    reading = await subjects.reading(body)
    tokens = sorted(body.numbers("tokens") & set(range(len(reading.tokens))))
    chosen: Any = tokens or slice(None)
    for layer in range(len(reading.layers) + 1):
        found = np.asarray(await reading.states(layer))
        yield encode_frame({"layer": layer, "tokens": tokens}, states=found[chosen])


async def path(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Where a token is in a plane, before and after each layer.

    ``query``: the token; ``anchor_x``, ``anchor_y``: words whose cosines are the axes (null:
    principal components, with ``of_path`` of the token's own states); ``other``, ``other_query``:
    a text whose token is followed too. A frame as each layer has run, and then the path.
    """
    reading = await subjects.reading(body)
    query = body.number("query", 0, len(reading.tokens) - 1)
    texts = [Followed.among_others(reading, query)]
    if body.optional_text("other") is not None:
        other = await subjects.other(body)
        other_query = body.number("other_query", 0, len(other.tokens) - 1)
        texts.append(Followed.among_others(other, other_query))
    names = ("anchor_x", "anchor_y") if body.optional_text("anchor_x") is not None else ()
    if reading.picture and (names or len(texts) > 1):
        raise BadRequestError("anchor_x, other: expected null, because pictures have no words")
    anchors = [Followed.anchor(await subjects.word(body, name), body.text(name)) for name in names]
    for step in range(len(reading.layers) + 1):
        for followed in (*texts, *anchors):
            await followed.take(step)
        yield encode_frame({"step": step})
    of_path = body.switch("of_path")
    found = await asyncio.to_thread(lay_out, texts, anchors, of_path=of_path)
    arrays = {"points": found.points, "other_path": found.other_path, "turned": found.turned}
    yield encode_frame(found.to_header(), **arrays)
