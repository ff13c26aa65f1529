"""Responses that cancel their work when the browser closes the request."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from polyhead_explorer.web.errors import describe_error
from polyhead_explorer.web.frames import CONTENT_TYPE, encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.types import Receive, Scope, Send

__all__ = ["FramesResponse"]


class FramesResponse:
    """Sends each frame as soon as the generator yields it.

    When the browser closes the request, the generator is cancelled, and so is the gRPC call that it
    awaits. An error before the first frame becomes an HTTP status. A later error is the last frame.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        sending = asyncio.create_task(self._send(scope, receive, send))
        disconnecting = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnecting.cancel()
            sending.cancel()
            await asyncio.wait({sending, disconnecting})
            await self._frames.aclose()
        if not sending.cancelled():
            sending.result()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async for frame in self._frames:
                if not has_begun:
                    await send(_START)
                    has_begun = True
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        except Exception as error:  # noqa: BLE001 - unexpected ones are logged
            status, body = describe_error(error)
            if not has_begun:
                await JSONResponse(body, status)(scope, receive, send)
                return
            frame = encode_frame(body)
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


_START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", CONTENT_TYPE.encode())],
}


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
