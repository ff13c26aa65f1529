"""Tokens, and the lines by which a server recognises them.

A token is ``polyhead.NAME.SECRET``. Its line in the tokens file is ``NAME ROLES
sha256:SALT:DIGEST``, where the roles are separated by commas and the digest is the SHA-256 of the
salt and the token. The name in the token finds the line, so a call costs one hash however many
lines there are.

The hash is a fast one, because a secret is 256 random bits. Slow hashes such as scrypt protect
passwords, which people choose and attackers guess. Nobody guesses 256 bits, and with a slow hash
callers with wrong tokens could keep the server busy.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ADMIN", "INFER", "ROLES", "Caller", "TokenLine", "find_caller", "make_token", "parse"]

INFER, ADMIN = "infer", "admin"
ROLES = {
    INFER: "may run models",
    ADMIN: "may load and unload models, read statistics and use server reflection",
}
"""The methods that each role allows, besides those that describe models and the server."""

_PREFIX = "polyhead"
_SECRET_BYTES = 32
_SALT_BYTES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TOKEN = re.compile(rf"{_PREFIX}\.({_NAME.pattern})\.[A-Za-z0-9_-]{{43}}")
_HASH = re.compile(r"sha256:([0-9a-f]{32}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token belongs to."""

    name: str
    """For logs and metrics; it is no secret."""
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A line of the tokens file."""

    caller: Caller
    salt: bytes
    digest: bytes

    def matches(self, token: str) -> bool:
        """Compare in a time that does not depend on the token."""
        return hmac.compare_digest(_digest(self.salt, token), self.digest)

    def __str__(self) -> str:
        roles = ",".join(sorted(self.caller.roles))
        return f"{self.caller.name} {roles} sha256:{self.salt.hex()}:{self.digest.hex()}"


_NOBODY = TokenLine(Caller("", frozenset()), bytes(_SALT_BYTES), secrets.token_bytes(32))
"""Hashed and compared for names without a line, so that time does not show which names have one."""


def make_token(name: str, roles: Iterable[str]) -> tuple[str, TokenLine]:
    """Make a random token, and its line. Raises ValueError for an invalid name or role."""
    caller = Caller(_checked_name(name), _checked_roles(roles))
    token = f"{_PREFIX}.{name}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    salt = secrets.token_bytes(_SALT_BYTES)
    return token, TokenLine(caller, salt, _digest(salt, token))


def parse(text: str) -> tuple[dict[str, TokenLine], list[str]]:
    """Parse the lines of a tokens file, by name; also return the problems of other lines.

    Empty lines and lines that begin with # are skipped. A malformed line grants nothing. A name
    with several lines grants nothing either, because the lines may contradict each other.
    """
    lines: dict[str, TokenLine] = {}
    problems, duplicates = [], set()
    for number, content in enumerate(text.splitlines(), start=1):
        if not content.strip() or content.lstrip().startswith("#"):
            continue
        try:
            line = _parse_line(content)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if line.caller.name in lines:
            duplicates.add(line.caller.name)
            problems.append(f"line {number}: the name {line.caller.name} has a line already")
        lines[line.caller.name] = line
    for name in duplicates:
        del lines[name]
    if not (lines or problems):
        problems.append("it lists no token")
    return lines, problems


def find_caller(lines: dict[str, TokenLine], token: str) -> Caller | None:
    """Return the owner of a token; None if no line matches it."""
    form = _TOKEN.fullmatch(token)
    line = lines.get(form[1], _NOBODY) if form else _NOBODY
    return line.caller if line.matches(token) else None


def _parse_line(content: str) -> TokenLine:
    fields = content.split()
    if len(fields) != 3:  # the content is not quoted, because it may be a token
        raise ValueError("expected NAME ROLES HASH, as `polyhead token new` prints it")
    name, roles, hashed = fields
    if not (form := _HASH.fullmatch(hashed)):
        raise ValueError("the third field is no hash that `polyhead token new` printed")
    caller = Caller(_checked_name(name), _checked_roles(roles.split(",")))
    return TokenLine(caller, bytes.fromhex(form[1]), bytes.fromhex(form[2]))


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "the name must have 1 to 63 lower-case letters, digits, _ and -, and begin with a "
            "letter or a digit"
        )
    return name


def _checked_roles(roles: Iterable[str]) -> frozenset[str]:
    checked = frozenset(roles)
    if not checked or checked - ROLES.keys():
        raise ValueError(f"the roles must be some of {', '.join(ROLES)}, separated by commas")
    return checked


def _digest(salt: bytes, token: str) -> bytes:
    return sha256(salt + token.encode(errors="replace")).digest()
