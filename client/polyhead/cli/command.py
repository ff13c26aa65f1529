"""The interface of a subcommand: found by entry point, described without heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

__all__ = ["Command", "UsageError"]


class UsageError(Exception):
    """An invalid command line. `main` prints the message and exits with status 2."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand, registered in the entry-point group ``polyhead.commands``.

    Its module must be importable without any extra; `run` imports what it needs.
    """

    help: str
    """One line for ``polyhead --help``."""
    description: str
    """Start of ``polyhead NAME --help``: what the command does, with examples."""
    add_arguments: Callable[[ArgumentParser], None]
    """Declares the subcommand's arguments."""
    run: Callable[[Namespace], int]
    """Carries out the command and returns the exit status. Expected failures are raised as
    UsageError or PolyheadError, which `main` prints without a traceback."""
    documentation: str = "README.md"
    """A document with more details, which ``polyhead NAME --help`` names at its end."""
    extra: str = ""
    """The extra whose packages `run` imports, such as ``server``; empty if it needs no extra."""
