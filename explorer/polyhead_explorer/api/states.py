"""Endpoints of hidden states: the states before each layer, and a token's path in a plane."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_explorer.reading.path import FollowedToken, lay_out
from polyhead_explorer.web.errors import BadRequestError
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.web.bodies import Body

__all__ = ["path", "states"]


async def states(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the states before each layer, and after the last one: a frame each.

    ``tokens``: indices of the tokens; empty means all.
    """
    reading = await subjects.reading(body)
    tokens = sorted(body.numbers("tokens") & set(range(len(reading.tokens))))
    selected: Any = tokens or slice(None)
    for layer in range(len(reading.layers) + 1):
        all_states = np.asarray(await reading.states(layer))
        yield encode_frame({"layer": layer, "tokens": tokens}, states=all_states[selected])


async def path(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield a token's places in a plane, before and after each layer.

    ``query``: the token. ``anchor_x``, ``anchor_y``: words; the axes are the cosines to them. If
    they are null, the axes are principal components, with ``of_path`` of the token's states alone.
    ``other``, ``other_query``: another text and a token, whose path is also computed. A frame
    tells the progress after each layer, and the last frame has the path.
    """
    reading = await subjects.reading(body)
    query = body.number("query", 0, len(reading.tokens) - 1)
    texts = [FollowedToken.among_others(reading, query)]
    if body.optional_text("other") is not None:
        other = await subjects.other(body)
        other_query = body.number("other_query", 0, len(other.tokens) - 1)
        texts.append(FollowedToken.among_others(other, other_query))
    names = ("anchor_x", "anchor_y") if body.optional_text("anchor_x") is not None else ()
    if reading.picture and (names or len(texts) > 1):
        raise BadRequestError("anchor_x, other: expected null, because pictures have no words")
    anchors = [
        FollowedToken.anchor(await subjects.word(body, name), body.text(name)) for name in names
    ]
    for step in range(len(reading.layers) + 1):
        for followed in (*texts, *anchors):
            await followed.add_states(step)
        yield encode_frame({"step": step})
    of_path = body.switch("of_path")
    laid_out = await asyncio.to_thread(lay_out, texts, anchors, of_path=of_path)
    arrays = {name: getattr(laid_out, name) for name in ("points", "other_path", "turned")}
    yield encode_frame(laid_out.to_header(), **arrays)
