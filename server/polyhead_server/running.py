"""Runs a real server in this process, for tests, demos and notebooks."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyhead_server.engine.subnormals import flush_subnormals
from polyhead_server.errors import StartupError
from polyhead_server.process.app import App
from polyhead_server.process.event_loop import new_event_loop
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from os import PathLike

__all__ = ["RunningServer", "running_server"]


@dataclass(frozen=True)
class RunningServer:
    """A running server, and its address."""

    port: int
    """0: it listens on a socket of a path."""
    metrics_port: int | None = None
    """Port of the metrics; None means that they are not served."""

    address: str = ""
    """Where it listens; empty: on this machine."""

    @property
    def target(self) -> str:
        """Address for `polyhead.Client`."""
        return self.address if self.address.startswith("unix:") else f"127.0.0.1:{self.port}"


@contextmanager
def running_server(
    models: str | PathLike[str] | None = None,
    **settings: Any,  # noqa: ANN401 - each setting has its own type
) -> Iterator[RunningServer]:
    """Serve a model repository, or the built-in one, on a free port of this machine.

    ``models``: a folder, or a URL as --models takes it.

        with running_server("models") as server, polyhead.Client(server.target) as client:
            ...

    This is the server of `polyhead serve`, on its own event loop in a thread. Every field of
    ServerSettings can be passed by name. Leaving the context drains the server. Raises StartupError
    if it cannot start.
    """
    repository = models if models is None or "://" in str(models) else Path(models)
    server_settings = ServerSettings(
        **{"models": repository, "port": 0, "grace_s": 5.0, **settings}
    )
    if server_settings.workers != 1:
        raise StartupError(
            f"running_server runs in this process, not in {server_settings.workers} workers; "
            "`polyhead serve --workers` starts more"
        )
    loop = new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="polyhead-server", daemon=True)
    thread.start()
    try:
        app = _wait(asyncio.run_coroutine_threadsafe(_start(server_settings), loop))
        try:
            yield RunningServer(app.port, app.metrics_port, app.address)
        finally:
            _wait(asyncio.run_coroutine_threadsafe(app.drain(), loop))
    finally:
        _wait(asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _start(settings: ServerSettings) -> App:
    flush_subnormals()  # small requests run in this thread, which the loop has for itself
    app = App(settings)  # made on its loop, because its events belong to that
    await app.start()
    return app


def _wait(future: Future[Any]) -> Any:  # noqa: ANN401 - each coroutine has its own type
    return future.result()
