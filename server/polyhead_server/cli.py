"""`polyhead serve`."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError
from polyhead_server.errors import StartupError
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Serve attention blocks over gRPC until SIGTERM or Ctrl-C.

  polyhead serve                                the built-in river-bank model, on port 50051
  polyhead serve --models repo --host 0.0.0.0   a repository made with `polyhead export`, to all
  polyhead serve --port 0 --threads 1           any free port, one thread a run

Every flag is also an environment variable, named in brackets; the flag wins.
"""


def _serve(arguments: Namespace) -> int:
    try:
        settings = ServerSettings.from_arguments(arguments)
        asyncio.run(_run(settings))
    except StartupError as error:
        raise UsageError(str(error)) from error
    return 0


async def _run(settings: ServerSettings) -> None:
    from polyhead_server import logs
    from polyhead_server.app import App

    logs.configure(settings.log_format, settings.log_level)
    app = App(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    starting = asyncio.create_task(app.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return
    await starting
    await stopping
    await app.drain()


COMMAND = Command(
    help="serve attention blocks over gRPC",
    description=_DESCRIPTION,
    extra="server",
    add_arguments=ServerSettings.add_arguments,
    run=_serve,
)
