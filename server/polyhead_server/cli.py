"""`polyhead serve`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError
from polyhead_server.errors import StartupError
from polyhead_server.settings import ServerSettings

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ["COMMAND"]

_LOG = logging.getLogger("polyhead.app")
_DESCRIPTION = """\
Serve attention blocks over gRPC until SIGTERM or Ctrl-C.

  polyhead serve                                the built-in river-bank model, on port 50051
  polyhead serve --models repo --host 0.0.0.0   a repository of `polyhead export`, for any host
  polyhead serve --port 0 --threads 1           any free port, one thread per run
  polyhead serve --workers 4                    four processes on one port

Every flag is also an environment variable, named in brackets; the flag wins.
"""


def _serve(arguments: Namespace) -> int:
    from polyhead_server.process import logs
    from polyhead_server.process.resources.available_memory import available_memory

    try:
        settings = ServerSettings.from_arguments(arguments, available_bytes=available_memory())
        logs.configure(settings.log_format, settings.log_level)
        for variable, similar in settings.misspelt_variables().items():
            extra = {"variable": variable, "did_you_mean": similar}
            _LOG.warning("no setting has this variable", extra=extra)
        if settings.workers == 1:
            from polyhead_server.process.event_loop import serve

            serve(settings, lambda fields: _LOG.info("serving", extra=fields))
        else:
            from polyhead_server.process.workers.supervisor import serve_with_workers

            serve_with_workers(settings)
    except StartupError as error:
        raise UsageError(str(error)) from error
    finally:
        logs.flush()
    return 0


COMMAND = Command(
    help="serve attention blocks over gRPC",
    description=_DESCRIPTION,
    extra="server",
    add_arguments=ServerSettings.add_arguments,
    run=_serve,
)
