"""The metrics port: answers GET /metrics within limits of time, size and number.

prometheus_client has a server of its own, which keeps a thread for each client that stays silent.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

from polyhead_server.process.metrics.pages import Pages
from polyhead_server.process.network.port import cannot_listen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from polyhead_server.limits import MetricsLimits
    from polyhead_server.process.metrics.snapshot import Snapshot

__all__ = ["MetricsPort"]

_PATH = "/metrics"
_TEXT = "text/plain; charset=utf-8"


class _Response(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes

    def as_bytes(self, *, has_body: bool) -> bytes:
        head = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + (self.body if has_body else b"")


class MetricsPort:
    """Serves the metrics of a server's processes over HTTP."""

    def __init__(
        self,
        take_snapshots: Callable[[], Awaitable[Mapping[str, Snapshot]]],
        limits: MetricsLimits,
    ) -> None:
        """``take_snapshots``: returns the argument of families_of."""
        self._pages = Pages(take_snapshots, max_share=limits.max_share)
        self._limits = limits
        self._num_open = 0
        self._sending: dict[asyncio.StreamWriter, None] = {}
        """Connections whose requests have not arrived yet, the oldest first."""
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port. Raises StartupError."""
        # imported now, so that a server without metrics starts as fast as before
        from polyhead_server.process.metrics import families  # noqa: F401

        try:
            self._server = await asyncio.start_server(
                self._answer, host.strip("[]"), port, limit=self._limits.request_bytes
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
            flags = "--metrics-port or --metrics-host"
            raise cannot_listen(host, port, error, flags) from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def close(self) -> None:
        """Stop listening. Requests under way end within their limit of time."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        self._num_open += 1
        try:
            if self._num_open <= self._limits.connections or self._end_slowest():
                async with asyncio.timeout(self._limits.request_s):
                    await self._respond(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # a client that is slow or gone gets no more bytes
        finally:
            self._num_open -= 1
            writer.close()

    def _end_slowest(self) -> bool:
        """End the connection whose request is longest under way; return whether there is one."""
        slowest = next((each for each in self._sending if not each.is_closing()), None)
        if slowest is None:
            return False
        slowest.transport.abort()
        return True

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._sending[writer] = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            del self._sending[writer]
        request_line, _, headers = head.partition(b"\r\n")
        method, _, rest = request_line.decode("latin-1").partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method not in ("GET", "HEAD"):
            response = _text(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET")
        elif path != _PATH:
            response = _text(HTTPStatus.NOT_FOUND, f"expected {_PATH}")
        else:
            response = await self._metrics(headers)
        writer.write(response.as_bytes(has_body=method != "HEAD"))
        await writer.drain()

    async def _metrics(self, headers: bytes) -> _Response:
        try:
            accept = parse_headers(BytesIO(headers)).get("Accept", "")
        except HTTPException:
            return _text(HTTPStatus.BAD_REQUEST, "expected headers that can be read")
        return _Response(HTTPStatus.OK, *await self._pages.page(accept))


def _text(status: HTTPStatus, text: str) -> _Response:
    return _Response(status, _TEXT, f"{text}\n".encode())
