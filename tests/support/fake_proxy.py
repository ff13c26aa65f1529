"""An HTTP proxy on loopback that records which hosts it is asked for, and refuses all of them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")
"""All that gRPC reads."""


class _Refuse(StreamRequestHandler):
    def handle(self):
        self.server.requests.append(self.rfile.readline().decode().strip())
        while self.rfile.readline().strip():
            pass  # the headers
        self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")


class FakeProxy(ThreadingTCPServer):
    """``requests``: the first line of each request, such as CONNECT host:1 HTTP/1.1."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Refuse)
        self.requests = []

    @property
    def url(self):
        return f"http://user:secret@127.0.0.1:{self.server_address[1]}"


@contextmanager
def fake_proxy():
    """Run a proxy, which the environment does not name yet."""
    with FakeProxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
