"""The ASGI application: the page and its endpoints."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from polyhead_explorer.api.api import Api
from polyhead_explorer.offline.shell import page_script, page_styles, served_page
from polyhead_explorer.web.errors import BadRequestError, BusyError, describe_error
from polyhead_explorer.web.protection import Protection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from starlette.requests import Request

    from polyhead import AsyncClient

__all__ = ["make_app"]

_PAGE = Path(__file__).parent / "page"
_SCRIPT, _STYLES = "page.js", "page.css"


def make_app(connect: Callable[[], AsyncClient], allowed_hosts: Collection[str]) -> Starlette:
    """Make the application. ``connect`` is called on its event loop, and returns the client."""
    api = Api()

    @asynccontextmanager
    async def connected(_: Starlette) -> AsyncIterator[None]:
        async with connect() as client:
            api.use(client)
            yield

    return Starlette(
        routes=[
            *api.routes(),
            Route("/", _send_page),
            Route(f"/{_SCRIPT}", _send_script),
            Route(f"/{_STYLES}", _send_styles),
            Mount("/", StaticFiles(directory=_PAGE, html=True)),
        ],
        middleware=[Middleware(Protection, allowed_hosts=allowed_hosts)],
        exception_handlers={BadRequestError: _refuse, BusyError: _refuse, ClientDisconnect: _end},
        lifespan=connected,
    )


async def _send_page(_: Request) -> HTMLResponse:
    return HTMLResponse(served_page(_SCRIPT, _STYLES))


async def _send_script(_: Request) -> Response:
    return Response(page_script(), media_type="text/javascript")


async def _send_styles(_: Request) -> Response:
    return Response(page_styles(), media_type="text/css")


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    status, body = describe_error(error)
    return JSONResponse(body, status)


async def _end(_: Request, __: Exception) -> Response:
    """Answer a request whose sender disconnected before its end. Nothing reads the answer."""
    return Response(status_code=400)
