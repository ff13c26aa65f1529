"""The explorer, served in a thread, and a plain HTTP client that asks it as its page does."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import polyhead
from polyhead_explorer.serve import address_of, listen, make_server

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["ExplorerError", "Page", "explorer"]


class ExplorerError(Exception):
    """What the page would show, and its status."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body["error"]["message"])
        self.status = status
        self.kind = body["error"]["kind"]


class Page:
    """Asks the explorer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://localhost:{port}/"

    def request(
        self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request, and return status, headers and body."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

    def ask(
        self, name: str, **fields: object
    ) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
        """Ask an endpoint; return the header and the arrays of each frame. Raises ExplorerError."""
        method, body = ("POST", json.dumps(fields)) if fields else ("GET", None)
        headers = {"Content-Type": "application/json"}
        status, _, data = self.request(method, f"/api/{name}", body, headers)
        if status != http.client.OK:
            raise ExplorerError(status, json.loads(data))
        return list(_frames(data))


def _frames(data: bytes) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    offset = 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        header = json.loads(data[offset + 4 : end])
        arrays = {}
        for name, shape in header.pop("arrays", {}).items():
            dtype = np.dtype("<f2" if name in header.get("halves", ()) else "<f4")
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(data, dtype, count, end).reshape(shape)
            end += dtype.itemsize * count
        yield header, arrays
        offset = end


@contextmanager
def explorer(
    connect: str | Callable[[], polyhead.AsyncClient], host_names: Collection[str] = ()
) -> Iterator[Page]:
    """Serve the page. ``connect``: the address of a server, or what makes a client."""
    if isinstance(connect, str):
        connect = partial(polyhead.AsyncClient, connect, timeout=60)
    with listen("127.0.0.1", 0) as listener:
        server = make_server(connect, host_names)
        thread = threading.Thread(target=server.run, args=([listener],), name="explorer")
        thread.start()
        try:
            yield Page(int(address_of(listener).rstrip("/").rpartition(":")[2]))
        finally:
            server.should_exit = True
            thread.join()
