"""Tokens and weights: of all heads small, of one head, of a pair, of a layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead_explorer.reading.matrices import Shown, layer_maps, layer_pair
from polyhead_explorer.reading.reading import is_cross
from polyhead_explorer.web.errors import BadRequestError
from polyhead_explorer.web.frames import encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from polyhead_explorer.api.subjects import Subjects
    from polyhead_explorer.reading.groups import Groups
    from polyhead_explorer.reading.reading import Reading, Token
    from polyhead_explorer.web.bodies import Body

__all__ = ["head", "maps", "pair", "reading", "weights"]

_MAX_MAP_SIZE, _MAX_HEAD_SIZE = 64, 1024
_MAX_LAYER_BYTES = 24 << 20


async def reading(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """The text's tokens, and the model's layers. No layer runs.

    ``keys``: the tokens that are looked at, if they are not the tokens themselves; or null.
    """
    found = await subjects.reading(body)
    yield encode_frame(
        {
            "tokens": _described(found.tokens),
            "keys": _described(found.keys) if is_cross(found) else None,
            "layers": [asdict(layer) for layer in found.layers],
            "is_causal": found.spec(0).is_causal,
            "is_cut": found.is_cut,
            "picture": asdict(found.picture) if found.picture else None,
        }
    )


async def maps(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """All heads of all layers, small: a frame for each layer, as soon as it has run.

    ``size``: most rows and columns of a map; ``hide``: indices of tokens; ``hide_keys``: of the
    keys, if they are other tokens; ``renormalise``.
    """
    found = await subjects.reading(body)
    shown = _shown(body, found, body.number("size", 1, _MAX_MAP_SIZE))
    for layer in range(len(found.layers)):
        layers = await layer_maps(found, layer, shown)
        arrays = {"received": layers.received, "measures": layers.measures}
        yield encode_frame({"layer": layer}, maps=layers.maps, **arrays)


async def head(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """One head's weights: ``layer``, ``head``; what is hidden, as for maps.

    ``rows`` and ``keys`` say which tokens the rows and the columns are.
    """
    found = await subjects.reading(body)
    layer = body.number("layer", 0, len(found.layers) - 1)
    number = body.number("head", 0, found.layers[layer].num_heads - 1)
    shown = _shown(body, found, _MAX_HEAD_SIZE)
    layers = await layer_maps(found, layer, shown, [number])
    sides = {"rows": _side(shown.rows), "keys": _side(shown.keys)}
    yield encode_frame({"layer": layer, "head": number, **sides}, weights=layers.maps[0])


async def pair(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """The weight from ``query`` to ``key`` in all heads: a frame for each layer."""
    found = await subjects.reading(body)
    query = body.number("query", 0, len(found.tokens) - 1)
    key = body.number("key", 0, len(found.keys) - 1)
    hidden_keys = body.numbers("hide_keys" if is_cross(found) else "hide")
    if query in body.numbers("hide") or key in hidden_keys:
        raise BadRequestError("hide: expected tokens other than those of the pair")
    shown = _shown(body, found, _MAX_MAP_SIZE)
    for layer in range(len(found.layers)):
        yield encode_frame(
            {"layer": layer}, weights=await layer_pair(found, layer, shown, query, key)
        )


async def weights(subjects: Subjects, body: Body) -> AsyncGenerator[bytes, None]:
    """All weights of a layer, (heads, tokens, keys) in float16: ``layer``."""
    found = await subjects.reading(body)
    layer = body.number("layer", 0, len(found.layers) - 1)
    num_bytes = found.layers[layer].num_heads * len(found.tokens) * len(found.keys) * 2
    if num_bytes > _MAX_LAYER_BYTES:
        raise BadRequestError(
            f"all weights of a layer take {num_bytes >> 20} MiB; at most "
            f"{_MAX_LAYER_BYTES >> 20} MiB are given at once"
        )
    everything = Shown.of(found, max_size=max(len(found.tokens), len(found.keys)))
    layers = await layer_maps(found, layer, everything)
    yield encode_frame({"layer": layer}, weights=layers.maps.astype(np.float16))


def _shown(body: Body, found: Reading, max_size: int) -> Shown:
    return Shown.of(
        found,
        hidden=body.numbers("hide"),
        hidden_keys=body.numbers("hide_keys"),
        renormalise=body.switch("renormalise"),
        max_size=max_size,
    )


def _described(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    return [{**asdict(token), "is_special": token.is_special} for token in tokens]


def _side(groups: Groups) -> dict[str, list[int]]:
    return {"kept": groups.kept.tolist(), "starts": groups.starts.tolist()}
