"""A parser of command lines whose errors are one line, and name what was probably meant."""

from __future__ import annotations

from argparse import ArgumentParser
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["CommandParser", "did_you_mean"]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return the end of an error message that names what was probably meant; empty if unclear."""
    found = get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


class CommandParser(ArgumentParser):
    """Parses the arguments of one command, or of one of its subcommands."""

    def __init__(self, *, document: str = "", **options: Any) -> None:  # noqa: ANN401 - as ArgumentParser takes them
        """``document``: the one that says more, such as README.md; its path ends the help."""
        self._document = document
        super().__init__(**{"allow_abbrev": False} | options)
        self._given: tuple[str, ...] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - it has overloads
        """Parse arguments. Unknown ones are errors here, where the known ones are."""
        self._given = tuple(args or ())
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many")
        return found, unknown

    def format_help(self) -> str:
        """Write the help."""
        if self._document:
            from polyhead.cli.documentation import where_documentation_is

            self.epilog = where_documentation_is(self._document)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Write one line, and exit with status 2."""
        flag = self._unknown_flag()
        if flag:  # whatever else is wrong follows from it
            known = list(self._option_string_actions)
            message = f"there is no flag {flag}{did_you_mean(flag, known)}"
        self.exit(2, f"{self.prog}: error: {message} (`{self.prog} --help` lists all)\n")

    def _unknown_flag(self) -> str:
        """Return the first of the given arguments that looks like a flag and is none."""
        for argument in self._given:
            if argument == "--" or (self._subparsers and not argument.startswith("-")):
                break  # what follows belongs to nobody, or to a subcommand
            flag = argument.partition("=")[0]
            if flag.startswith("--") and flag not in self._option_string_actions:
                return flag
        return ""
