"""The page's endpoints: each reads a request, asks the server by a reading, and sends frames."""

from __future__ import annotations

import asyncio
import base64
from contextlib import aclosing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.routing import Route

from polyhead import ServerUnavailableError, Weights
from polyhead_explorer.offline.shell import page_shell
from polyhead_explorer.reading.cache import Readings, Subject
from polyhead_explorer.reading.catalogue import describe
from polyhead_explorer.reading.matrices import Shown, layer_maps, layer_pair
from polyhead_explorer.reading.path import Followed, lay_out
from polyhead_explorer.reading.pictures import Picture, Pictures
from polyhead_explorer.reading.vectors import MissingVectorsError, row_vectors
from polyhead_explorer.web.bodies import read_body
from polyhead_explorer.web.errors import BadRequestError
from polyhead_explorer.web.frames import encode_frame
from polyhead_explorer.web.responses import FramesResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request

    from polyhead import AsyncClient
    from polyhead.types import Stage
    from polyhead_explorer.reading.reading import Reading
    from polyhead_explorer.web.bodies import Body

    _Frames = Callable[[Body], AsyncGenerator[bytes, None]]

__all__ = ["Api"]

_MAX_MAP_SIZE, _MAX_HEAD_SIZE = 64, 1024
_MAX_LAYER_BYTES = 24 << 20
_MAX_SIDE = 4096
_MAX_VERSION = 2**63 - 1
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


class Api:
    """The endpoints.

    Each takes a JSON object with ``model``, ``version`` (null: the newest), ``text`` and perhaps
    ``image``, a picture's name, which is read in place of the text. Each yields frames. ``models``
    and ``shell`` take nothing; ``upload`` gives a picture a name.
    """

    _client: AsyncClient
    _readings: Readings

    def __init__(self) -> None:
        self._pictures = Pictures()

    def use(self, client: AsyncClient) -> None:
        """Ask this client from now on."""
        self._client = client
        self._readings = Readings(client)

    def routes(self) -> list[Route]:
        """Return the paths of the endpoints."""

        async def list_models(_: Request) -> FramesResponse:
            return FramesResponse(self._models())

        async def send_shell(_: Request) -> FramesResponse:
            return FramesResponse(self._shell())

        endpoints = {
            "reading": self._reading,
            "maps": self._maps,
            "head": self._head,
            "pair": self._pair,
            "row": self._row,
            "vectors": self._vectors,
            "states": self._states,
            "path": self._path,
            "weights": self._weights,
            "upload": self._upload,
            "picture": self._picture,
        }
        return [
            Route("/api/models", list_models, methods=["GET"]),
            Route("/api/shell", send_shell, methods=["GET"]),
            *(
                Route(f"/api/{name}", self._answer(frames), methods=["POST"])
                for name, frames in endpoints.items()
            ),
        ]

    def _answer(self, frames: _Frames) -> Callable[[Request], Awaitable[FramesResponse]]:
        async def answer(request: Request) -> FramesResponse:
            body = await read_body(request)
            return FramesResponse(self._watched(frames(body)))

        return answer

    async def _watched(self, frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Forget what was read when the server goes: it may come back with other models."""
        async with aclosing(frames):
            try:
                async for frame in frames:
                    yield frame
            except ServerUnavailableError:
                self._readings = Readings(self._client)
                raise

    async def _models(self) -> AsyncGenerator[bytes, None]:
        """The server's models."""
        models = await self._client.models()
        yield encode_frame({"models": [describe(model).to_json() for model in models]})

    async def _reading(self, body: Body) -> AsyncGenerator[bytes, None]:
        """The text's tokens, and the model's layers. No layer runs."""
        reading = await self._begin(body)
        yield encode_frame(
            {
                "tokens": [
                    {**asdict(token), "is_special": token.is_special} for token in reading.tokens
                ],
                "layers": [asdict(layer) for layer in reading.layers],
                "is_cut": reading.is_cut,
                "picture": asdict(reading.picture) if reading.picture else None,
            }
        )

    async def _maps(self, body: Body) -> AsyncGenerator[bytes, None]:
        """All heads of all layers, small: a frame for each layer, as soon as it has run.

        ``size``: most rows and columns of a map; ``hide``: indices of tokens; ``renormalise``.
        """
        reading = await self._begin(body)
        shown = _shown(body, reading, body.number("size", 1, _MAX_MAP_SIZE))
        for layer in range(len(reading.layers)):
            maps = await layer_maps(reading, layer, shown)
            arrays = {"received": maps.received, "measures": maps.measures}
            yield encode_frame({"layer": layer}, maps=maps.maps, **arrays)

    async def _head(self, body: Body) -> AsyncGenerator[bytes, None]:
        """One head's weights: ``layer``, ``head``; ``hide`` and ``renormalise`` as for maps."""
        reading = await self._begin(body)
        layer, head = _place(body, reading)
        shown = _shown(body, reading, _MAX_HEAD_SIZE)
        maps = await layer_maps(reading, layer, shown, [head])
        groups = {"kept": shown.kept.tolist(), "starts": shown.starts.tolist()}
        yield encode_frame({"layer": layer, "head": head, **groups}, weights=maps.maps[0])

    async def _pair(self, body: Body) -> AsyncGenerator[bytes, None]:
        """The weight from ``query`` to ``key`` in all heads: a frame for each layer."""
        reading = await self._begin(body)
        last = len(reading.tokens) - 1
        query, key = body.number("query", 0, last), body.number("key", 0, last)
        if body.numbers("hide") & {query, key}:
            raise BadRequestError("hide: expected tokens other than those of the pair")
        shown = _shown(body, reading, _MAX_MAP_SIZE)
        for layer in range(len(reading.layers)):
            weights = await layer_pair(reading, layer, shown, query, key)
            yield encode_frame({"layer": layer}, weights=weights)

    async def _row(self, body: Body) -> AsyncGenerator[bytes, None]:
        """One row at each stage: ``layer``, ``query``, ``head`` (null: all)."""
        reading = await self._begin(body)
        layer = body.number("layer", 0, len(reading.layers) - 1)
        head = body.optional_number("head", 0, reading.layers[layer].num_heads - 1)
        query = body.number("query", 0, len(reading.tokens) - 1)
        heads = () if head is None else (head,)
        arrays = {}
        for stage in _STAGES:
            wanted = Weights(heads=heads, queries=query, stage=stage)
            arrays[stage] = (await reading.weights(layer, wanted))[:, 0]
        spec = reading.spec(layer)
        mathematics = {name: getattr(spec, name) for name in _MATHEMATICS}
        place = {"layer": layer, "head": head, "query": query}
        yield encode_frame({**place, "spec": mathematics}, **arrays)

    async def _vectors(self, body: Body) -> AsyncGenerator[bytes, None]:
        """What enters a layer, and one row of a head in vectors: ``layer``, ``head``, ``query``.

        Of each vector come the first numbers and the length, and the sum of each key's terms.
        ``sizes`` says how many numbers each vector has.
        """
        reading = await self._begin(body)
        layer, head = _place(body, reading)
        query = body.number("query", 0, len(reading.tokens) - 1)
        states = np.asarray(await reading.states(layer))
        found, reason = {"entering": states}, ""
        try:
            found |= await row_vectors(reading, layer, head, query)
        except MissingVectorsError as error:
            reason = str(error)
        arrays = {name: vectors[:, :_MAX_NUMBERS] for name, vectors in found.items()}
        for name, vectors in found.items():
            arrays[f"{name}_length"] = np.linalg.norm(vectors, axis=-1)
        if not reason:
            arrays["products"] = found["terms"].sum(axis=-1)
        place = {"layer": layer, "head": head, "query": query}
        sizes = {name: vectors.shape[-1] for name, vectors in found.items()}
        about = {"sizes": sizes, "dimensions": reading.dimensions, "reason": reason}
        yield encode_frame({**place, **about}, **arrays)

    async def _states(self, body: Body) -> AsyncGenerator[bytes, None]:
        """What enters each layer and leaves the last: a frame each. ``tokens``: which (all)."""
        reading = await self._begin(body)
        tokens = sorted(body.numbers("tokens") & set(range(len(reading.tokens))))
        chosen: Any = tokens or slice(None)
        for layer in range(len(reading.layers) + 1):
            states = np.asarray(await reading.states(layer))
            yield encode_frame({"layer": layer, "tokens": tokens}, states=states[chosen])

    async def _path(self, body: Body) -> AsyncGenerator[bytes, None]:
        """Where a token is in a plane, before and after each layer.

        ``query``: the token; ``anchor_x``, ``anchor_y``: words whose cosines are the axes (null:
        principal components, with ``of_path`` of the token's own states); ``other``,
        ``other_query``: a text whose token is followed too. A frame as each layer has run, and
        then the path.
        """
        reading = await self._begin(body)
        query = body.number("query", 0, len(reading.tokens) - 1)
        texts = [Followed.among_others(reading, query)]
        if body.optional_text("other") is not None:
            other = await self._begin(body, "other")
            other_query = body.number("other_query", 0, len(other.tokens) - 1)
            texts.append(Followed.among_others(other, other_query))
        names = ("anchor_x", "anchor_y") if body.optional_text("anchor_x") is not None else ()
        if reading.picture and (names or len(texts) > 1):
            raise BadRequestError("anchor_x, other: expected null, because pictures have no words")
        anchors = [
            Followed.anchor(await self._begin(body, name), body.text(name)) for name in names
        ]
        for step in range(len(reading.layers) + 1):
            for followed in (*texts, *anchors):
                await followed.take(step)
            yield encode_frame({"step": step})
        of_path = body.switch("of_path")
        path = await asyncio.to_thread(lay_out, texts, anchors, of_path=of_path)
        arrays = {"points": path.points, "other_path": path.other_path, "turned": path.turned}
        yield encode_frame(path.to_header(), **arrays)

    async def _weights(self, body: Body) -> AsyncGenerator[bytes, None]:
        """All weights of a layer, (heads, tokens, tokens) in float16: ``layer``."""
        reading = await self._begin(body)
        layer = body.number("layer", 0, len(reading.layers) - 1)
        num_bytes = reading.layers[layer].num_heads * len(reading.tokens) ** 2 * 2
        if num_bytes > _MAX_LAYER_BYTES:
            raise BadRequestError(
                f"all weights of a layer take {num_bytes >> 20} MiB; at most "
                f"{_MAX_LAYER_BYTES >> 20} MiB are given at once"
            )
        everything = Shown.of(
            len(reading.tokens), hidden=(), renormalise=False, max_size=len(reading.tokens)
        )
        maps = await layer_maps(reading, layer, everything)
        yield encode_frame({"layer": layer}, weights=maps.maps.astype(np.float16))

    async def _upload(self, body: Body) -> AsyncGenerator[bytes, None]:
        """Keep a picture: ``height``, ``width``, ``pixels`` (base64 of red, green and blue)."""
        shape = body.number("height", 1, _MAX_SIDE), body.number("width", 1, _MAX_SIDE), 3
        data = body.data("pixels", shape[0] * shape[1] * shape[2])
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        yield encode_frame({"image": self._pictures.add(Picture(pixels))})

    async def _picture(self, body: Body) -> AsyncGenerator[bytes, None]:
        """Return a picture as ``upload`` takes it: ``image``."""
        pixels = self._kept_picture(body.text("image")).pixels
        height, width, _ = pixels.shape
        data = base64.b64encode(pixels.tobytes()).decode()
        yield encode_frame({"height": height, "width": width, "pixels": data})

    async def _shell(self) -> AsyncGenerator[bytes, None]:
        """The page as one file without answers, in which the page puts those of what is shown."""
        yield encode_frame({"html": page_shell()})

    async def _begin(self, body: Body, text: str = "text") -> Reading:
        """Return the reading of a field's text."""
        version = body.optional_number("version", 1, _MAX_VERSION)
        image = body.optional_text("image") if text == "text" else None
        subject = Subject(body.text("model"), version, body.text(text), image)
        picture = None if image is None else self._kept_picture(image)
        return await self._readings.get(subject, picture)

    def _kept_picture(self, name: str) -> Picture:
        picture = self._pictures.get(name)
        if picture is None:
            raise BadRequestError("the picture is not here any more: choose it again")
        return picture


def _shown(body: Body, reading: Reading, max_size: int) -> Shown:
    return Shown.of(
        len(reading.tokens),
        hidden=body.numbers("hide"),
        renormalise=body.switch("renormalise"),
        max_size=max_size,
    )


def _place(body: Body, reading: Reading) -> tuple[int, int]:
    layer = body.number("layer", 0, len(reading.layers) - 1)
    return layer, body.number("head", 0, reading.layers[layer].num_heads - 1)
