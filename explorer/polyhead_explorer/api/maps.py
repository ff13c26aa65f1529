"""Endpoints of tokens and weights: small maps of all heads, one head, one pair, one layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from polyhead_explorer.reading.matrices import MapLayout, layer_maps, layer_pair
from polyhead_explorer.reading.reading import is_cross
from polyhead_explorer.web.errors import BadRequestError
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.reading.groups import Groups
    from polyhead_explorer.reading.reading import Reading
    from polyhead_explorer.web.bodies import Body

__all__ = ["head", "maps", "pair", "reading", "weights"]

_MAX_MAP_SIZE, _MAX_HEAD_SIZE = 64, 1024
_MAX_LAYER_BYTES = 24 << 20


async def reading(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the text's tokens, and the model's layers. No layer runs.

    ``keys`` has the tokens that are attended to in cross-attention; otherwise it is null.
    """
    reading = await subjects.reading(body)
    yield encode_frame(
        {
            "tokens": [token.to_json() for token in reading.tokens],
            "keys": [key.to_json() for key in reading.keys] if is_cross(reading) else None,
            "layers": [asdict(layer) for layer in reading.layers],
            "is_causal": reading.spec(0).is_causal,
            "is_cut": reading.is_cut,
            "picture": asdict(reading.picture) if reading.picture else None,
        }
    )


async def maps(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield small maps of all heads: a frame for each layer, as soon as it has run.

    ``size``: most rows and columns of a map. ``hide``: indices of hidden tokens. ``hide_keys``:
    indices of hidden keys, in cross-attention. ``renormalise``: whether rows are scaled to sum 1.
    """
    reading = await subjects.reading(body)
    layout = _map_layout(body, reading, body.number("size", 1, _MAX_MAP_SIZE))
    for layer in range(len(reading.layers)):
        layers = await layer_maps(reading, layer, layout)
        arrays = {"received": layers.received, "measures": layers.measures}
        yield encode_frame({"layer": layer}, maps=layers.maps, **arrays)


async def head(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the weights of one head: ``layer``, ``head``, and the hidden tokens as in maps.

    ``rows`` and ``keys`` of the response list the tokens of rows and columns.
    """
    reading = await subjects.reading(body)
    layer = body.number("layer", 0, len(reading.layers) - 1)
    number = body.number("head", 0, reading.layers[layer].num_heads - 1)
    layout = _map_layout(body, reading, _MAX_HEAD_SIZE)
    layer_map = await layer_maps(reading, layer, layout, [number])
    sides = {"rows": _side(layout.rows), "keys": _side(layout.keys)}
    yield encode_frame({"layer": layer, "head": number, **sides}, weights=layer_map.maps[0])


async def pair(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield the weight from ``query`` to ``key`` in all heads: a frame for each layer."""
    reading = await subjects.reading(body)
    query = body.number("query", 0, len(reading.tokens) - 1)
    key = body.number("key", 0, len(reading.keys) - 1)
    hidden_keys = body.numbers("hide_keys" if is_cross(reading) else "hide")
    if query in body.numbers("hide") or key in hidden_keys:
        raise BadRequestError("hide: expected tokens other than those of the pair")
    layout = _map_layout(body, reading, _MAX_MAP_SIZE)
    for layer in range(len(reading.layers)):
        yield encode_frame(
            {"layer": layer}, weights=await layer_pair(reading, layer, layout, query, key)
        )


async def weights(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """Yield all weights of ``layer``: (heads, tokens, keys) in float16."""
    reading = await subjects.reading(body)
    layer = body.number("layer", 0, len(reading.layers) - 1)
    num_bytes = reading.layers[layer].num_heads * len(reading.tokens) * len(reading.keys) * 2
    if num_bytes > _MAX_LAYER_BYTES:
        raise BadRequestError(
            f"all weights of a layer take {num_bytes >> 20} MiB; at most "
            f"{_MAX_LAYER_BYTES >> 20} MiB can be fetched at once"
        )
    layout = MapLayout.of(reading, max_size=max(len(reading.tokens), len(reading.keys)))
    layers = await layer_maps(reading, layer, layout)
    yield encode_frame({"layer": layer}, weights=layers.maps.astype(np.float16))


def _map_layout(body: Body, reading: Reading, max_size: int) -> MapLayout:
    return MapLayout.of(
        reading,
        hidden=body.numbers("hide"),
        hidden_keys=body.numbers("hide_keys"),
        renormalise=body.switch("renormalise"),
        max_size=max_size,
    )


def _side(groups: Groups) -> dict[str, list[int]]:
    return {"kept": groups.kept.tolist(), "starts": groups.starts.tolist()}
