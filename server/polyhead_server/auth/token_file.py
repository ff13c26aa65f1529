"""The tokens file of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyhead_server.auth.files import CredentialsError, read_file
from polyhead_server.auth.tokens import find_caller, parse

if TYPE_CHECKING:
    from pathlib import Path

    from polyhead_server.auth.tokens import Caller, TokenLine

__all__ = ["TokenFile"]

_FLAG = "--tokens-file"
_MAX_PROBLEMS = 5


class TokenFile:
    """Knows the callers that a tokens file lists."""

    def __init__(self, path: Path) -> None:
        """Raises CredentialsError if anything is wrong with the file."""
        self.path = path
        self._lines: dict[str, TokenLine] = {}
        self.read()

    def log_fields(self) -> dict[str, object]:
        """Return how many tokens are valid."""
        return {"valid_tokens": len(self._lines)}

    def read(self) -> None:
        """Read the file again.

        Raises CredentialsError if anything is wrong with it. From then on only well-formed lines
        are valid, and none if the file cannot be read, because a token that was deleted from the
        file must not stay valid for a mistake elsewhere in it.
        """
        lines: dict[str, TokenLine] = {}
        problems: list[str] = []
        try:
            content = read_file(_FLAG, self.path, others_may_write=False)
            lines, problems = parse(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            problems.append("it is not UTF-8 text")
        finally:
            self._lines = lines  # at once, because calls are checked meanwhile
        if problems:
            shown = "; ".join(problems[:_MAX_PROBLEMS])
            more = f"; and {left} more" if (left := len(problems) - _MAX_PROBLEMS) > 0 else ""
            raise CredentialsError(f"{_FLAG} {self.path}: {shown}{more}")

    def caller_of(self, token: str) -> Caller | None:
        """Return the owner of a token; None if the file does not list it."""
        return find_caller(self._lines, token)
