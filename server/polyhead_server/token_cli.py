"""`polyhead token`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from polyhead.cli.command import Command, UsageError
from polyhead_server.auth.tokens import ROLES, make_token

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

__all__ = ["COMMAND"]

_ROLES = "\n".join(f"  {role:<8}{allows}" for role, allows in ROLES.items())
_DESCRIPTION = f"""\
Make tokens for callers of a server that `polyhead serve --tokens-file` started.

  polyhead token new --name ci --role infer >> tokens.txt
  polyhead token new --name ops --role infer --role admin >> tokens.txt

Standard output is the line for the tokens file, from which nobody learns the token. The token is
shown once, on standard error: give it to the caller, who sets POLYHEAD_TOKEN. To revoke a token,
delete its line. The server notices changes within seconds.

roles, besides describing the models and the server, which every token may:
{_ROLES}
"""


def _add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a token", allow_abbrev=False)
    new.add_argument(
        "--name", required=True, help="the caller's name, for logs and metrics, such as ci"
    )
    new.add_argument(
        "--role",
        required=True,
        action="append",
        choices=ROLES,
        help="what the caller may do; repeat it for several roles",
    )


def _run(arguments: Namespace) -> int:
    try:
        token, line = make_token(arguments.name, arguments.role)
    except ValueError as error:
        raise UsageError(f"--name is {arguments.name!r}: {error}") from error
    sys.stderr.write(f"token, not shown again: {token}\n")
    sys.stdout.write(f"{line}\n")
    return 0


COMMAND = Command(
    help="make tokens for a server's callers",
    description=_DESCRIPTION,
    add_arguments=_add_arguments,
    run=_run,
)
