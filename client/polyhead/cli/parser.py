"""A parser of command lines. Its errors are one line, and suggest the nearest valid word."""

from __future__ import annotations

from argparse import ArgumentParser
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["CommandParser", "did_you_mean"]


def did_you_mean(word: str, valid_words: Sequence[str]) -> str:
    """Return a suggestion for the end of an error message; empty if no valid word is similar."""
    matches = get_close_matches(word, valid_words, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


class CommandParser(ArgumentParser):
    """Parses the arguments of one command, or of one of its subcommands."""

    def __init__(self, *, document: str = "", **options: Any) -> None:  # noqa: ANN401 - as ArgumentParser takes them
        """``document``: a document such as README.md, whose path is printed below the help."""
        self._document = document
        super().__init__(**{"allow_abbrev": False} | options)
        self._command_line: tuple[str, ...] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - it has overloads
        """Parse arguments. Exit with an error for unknown ones, which argparse would return."""
        self._command_line = tuple(args or ())
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many")
        return namespace, unknown

    def format_help(self) -> str:
        """Write the help."""
        if self._document:
            from polyhead.cli.documentation import where_documentation_is

            self.epilog = where_documentation_is(self._document)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Write one line, and exit with status 2."""
        flag = self._unknown_flag()
        if flag:  # this is reported alone, because other errors may be its consequences
            flags = list(self._option_string_actions)
            message = f"there is no flag {flag}{did_you_mean(flag, flags)}"
        self.exit(2, f"{self.prog}: error: {message} (`{self.prog} --help` lists all)\n")

    def _unknown_flag(self) -> str:
        """Return the first argument that looks like a flag but is not one of the parser's."""
        for argument in self._command_line:
            if argument == "--" or (self._subparsers and not argument.startswith("-")):
                break  # the arguments behind it are no flags, or are parsed by a subcommand
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                return flag
        return ""
