"""Writes reference/commands.md: the help of every command, as its parser writes it."""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_ROOT = Path(__file__).parents[2]
_PACKAGES = ("client", "server", "models", "explorer")
_COLUMNS = "84"
_HEAD = """\
# Commands

What `--help` says. Which extra installs a command: [Extras](../README.md#extras). Each flag of
`polyhead serve` has a row in a [table](../README.md#polyhead-serve) as well.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page. The commands' modules need Python's own library only, so they are imported."""
    files.append(File.generated(config, "reference/commands.md", content=_page()))
    return files


def _page() -> str:
    sys.path[:0] = [str(_ROOT / package) for package in _PACKAGES]
    os.environ["COLUMNS"] = _COLUMNS
    return _HEAD + "".join(_sections(_parser()))


def _parser() -> argparse.ArgumentParser:
    """Make the parser of all commands, without an installation's entry points."""
    from polyhead.cli import make_parser

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    commands = {}
    for name, place in sorted(project["entry-points"]["polyhead.commands"].items()):
        module, _, attribute = place.partition(":")
        commands[name] = getattr(import_module(module), attribute)
    return make_parser(commands)


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Write a section for a command, and one for each of its subcommands."""
    level = max(2, len(parser.prog.split()))
    text = parser.format_help().partition("Documentation: ")[0].rstrip()  # no path of this machine
    yield f"\n{'#' * level} {parser.prog}\n\n```text\n{text}\n```\n"
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to its subcommands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for subparser in action.choices.values():
                yield from _sections(subparser)
