"""Protects the page from pages of other sites, in every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LOOPBACK_NAMES", "Protection"]

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


class Protection:
    """Refuses requests to other hosts and from other sites, and adds headers to all responses.

    A site whose name resolves to this machine's address (DNS rebinding) is another host.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        """``allowed_hosts``: names without port; IPv6 addresses in brackets."""
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        problem = self._problem(Headers(scope=scope))
        app = PlainTextResponse(problem, 403) if problem else self._app
        await app(scope, receive, send_protected)

    def _problem(self, headers: Headers) -> str:
        host = headers.get("host", "").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in self._allowed_hosts:
            return (
                "This page is not served under that name: open it as localhost, or start "
                "polyhead explore with --allow-host NAME."
            )
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            is_visit = headers.get("sec-fetch-mode") == "navigate"  # a person followed a link
            if not is_visit:
                return "Pages of other sites may not use this one."
        return ""
