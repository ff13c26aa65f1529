"""The endpoints' paths. Cached readings are dropped when the server becomes unavailable."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.routing import Route

from polyhead import ServerUnavailableError
from polyhead_explorer.api import maps, pictures, rows, states
from polyhead_explorer.api.subjects import Subjects
from polyhead_explorer.offline.shell import page_shell
from polyhead_explorer.reading.catalogue import describe
from polyhead_explorer.web.bodies import BodyReader
from polyhead_explorer.web.frames import encode_frame
from polyhead_explorer.web.responses import FramesResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request

    from polyhead import AsyncClient
    from polyhead_explorer.web.bodies import Body

    _Endpoint = Callable[[Subjects, Body], AsyncGenerator[bytes, None]]

__all__ = ["Api"]

_ENDPOINTS: dict[str, _Endpoint] = {
    "reading": maps.reading,
    "maps": maps.maps,
    "head": maps.head,
    "pair": maps.pair,
    "weights": maps.weights,
    "row": rows.row,
    "vectors": rows.vectors,
    "states": states.states,
    "path": states.path,
    "upload": pictures.upload,
    "picture": pictures.picture,
}


class Api:
    """The endpoints.

    Each takes a JSON object, whose fields name a text or a picture (Subjects), and yields frames.
    ``models`` and ``shell`` take no object. ``upload`` takes a picture and yields its name.
    """

    def __init__(self) -> None:
        self._subjects = Subjects()
        self._bodies = BodyReader()

    def use(self, client: AsyncClient) -> None:
        """Use this client from now on."""
        self._subjects.use(client)

    def routes(self) -> list[Route]:
        """Return the paths of the endpoints."""

        async def list_models(_: Request) -> FramesResponse:
            return FramesResponse(self._models())

        async def send_shell(_: Request) -> FramesResponse:
            return FramesResponse(_shell())

        return [
            Route("/api/models", list_models, methods=["GET"]),
            Route("/api/shell", send_shell, methods=["GET"]),
            *(
                Route(f"/api/{name}", self._answer(endpoint), methods=["POST"])
                for name, endpoint in _ENDPOINTS.items()
            ),
        ]

    def _answer(self, endpoint: _Endpoint) -> Callable[[Request], Awaitable[FramesResponse]]:
        async def answer(request: Request) -> FramesResponse:
            body = await self._bodies.read(request)
            return FramesResponse(self._forget_if_unavailable(endpoint(self._subjects, body)))

        return answer

    async def _forget_if_unavailable(
        self, frames: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """Drop the readings if the server is unavailable: it may return with other models."""
        async with aclosing(frames):
            try:
                async for frame in frames:
                    yield frame
            except ServerUnavailableError:
                self._subjects.forget()
                raise

    async def _models(self) -> AsyncGenerator[bytes, None]:
        """Yield the list of the server's models."""
        models = await self._subjects.client.models()
        yield encode_frame({"models": [describe(model).to_json() for model in models]})


async def _shell() -> AsyncGenerator[bytes, None]:
    """Yield the page as one file without answers. The page adds the answers and saves it."""
    yield encode_frame({"html": page_shell()})
