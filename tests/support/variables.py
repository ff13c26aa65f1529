"""The environment variables that polyhead reads, as deploy/ and compose set them."""

from __future__ import annotations

import argparse
import re

from polyhead.cli.shared_arguments import add_server_arguments
from polyhead_server.settings import ServerSettings


def known_variables():
    """The variables of the server's settings, and of the flags of commands that call it."""
    server, client = argparse.ArgumentParser(), argparse.ArgumentParser()
    ServerSettings.add_arguments(server)
    add_server_arguments(client, timeout_s=1)
    helps = " ".join(str(each.help) for each in (*server._actions, *client._actions))
    return set(re.findall(r"POLYHEAD_[A-Z_]+", helps))


def settings_of(environment, flags=()):
    """The server's settings, as `polyhead serve` reads them."""
    parser = argparse.ArgumentParser()
    ServerSettings.add_arguments(parser)
    return ServerSettings.from_arguments(parser.parse_args([*flags]), environment)
