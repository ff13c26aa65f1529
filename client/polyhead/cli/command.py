"""What a subcommand of `polyhead` is: found by entry point, described without heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

__all__ = ["Command", "UsageError"]


class UsageError(Exception):
    """A command line that cannot be carried out: printed as one message, exit status 2."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand, registered in the entry-point group ``polyhead.commands``.

    The module that holds it must import without any extra installed; `run` imports what it needs.
    """

    help: str
    """One line for ``polyhead --help``."""
    description: str
    """What ``polyhead NAME --help`` opens with: what it does, with examples."""
    extra: str
    """The extra whose packages `run` imports, such as ``server``; empty if none."""
    add_arguments: Callable[[ArgumentParser], None]
    """Declares the subcommand's arguments."""
    run: Callable[[Namespace], int]
    """Carries it out and gives the exit status. Expected failures are raised as UsageError or
    PolyheadError, which `main` prints without a traceback."""
