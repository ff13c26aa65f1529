"""A server that answers as the Hugging Face hub does, for one repository, which is a folder."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "0" * 40
MODEL = "/api/models/org/models"
"""Paths of the repository org/models, at the revision main."""
FILES = "/org/models/resolve/main/"


def _tree(folder):
    return [
        {
            "type": "file" if path.is_file() else "directory",
            "oid": f"{path.stat().st_mtime_ns:040}",
            "size": path.stat().st_size if path.is_file() else 0,
            "path": str(path.relative_to(folder)),
        }
        for path in sorted(folder.rglob("*"))
    ]


@contextmanager
def fake_hub(folder):
    """Yield the server's address, as HF_ENDPOINT takes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlparse(self.path).path
            if path in {MODEL, f"{MODEL}/revision/main"}:
                self.answer(json.dumps({"id": "org/models", "sha": COMMIT}).encode())
            elif path == f"{MODEL}/tree/main":
                self.answer(json.dumps(_tree(folder)).encode())
            elif path.startswith(FILES):
                self.answer_part((folder / unquote(path.removeprefix(FILES))).read_bytes())
            else:
                self.send_error(404)

        def answer_part(self, content):
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1]
            self.answer(part, 206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})

        def answer(self, body, code=200, headers={}):  # noqa: B006 - it is only read
            self.send_response(code)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
