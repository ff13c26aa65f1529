"""The shell commands of the documents, and the extras that the text names beside them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^```sh\n(?P<fenced>.*?)^```|(?:^    (?:pip|polyhead) .*\n)+", re.DOTALL | re.MULTILINE
)
_HEADING = re.compile(r"^#+ ", re.MULTILINE)
_EXTRAS = re.compile(r"(?:polyhead|\.)\[([a-z,]+)\]")
INCLUDED = {"demo": {"server", "export", "viz", "explore"}, "gpu": {"server"}}
"""Extras that bring what others bring."""


@dataclass(frozen=True)
class Block:
    """A block of shell commands."""

    place: str
    """Document and line."""
    commands: tuple[tuple[str, ...], ...]
    """The words of each `polyhead` command."""
    extras: frozenset[str]
    """The extras that its section names before its end, and those that they include."""


def blocks():
    return [block for document in DOCUMENTS for block in _blocks_of(document)]


def _blocks_of(document):
    text = document.read_text()
    for match in _BLOCK.finditer(text):
        code = match["fenced"] or match[0]
        if commands := tuple(_commands(code)):
            section = max((h.start() for h in _HEADING.finditer(text, 0, match.start())), default=0)
            named = {e for m in _EXTRAS.findall(text[section : match.end()]) for e in m.split(",")}
            extras = named.union(*(INCLUDED.get(name, set()) for name in named))
            line = text.count("\n", 0, match.start()) + 1
            yield Block(f"{document.name}:{line}", commands, frozenset(extras))


def _commands(code):
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:\||>>?|2>|&)\s", line):
            words = shlex.split(part, comments=True) if "polyhead " in part else []
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words[:1] == ["polyhead"]:
                yield tuple(words)


def needed(command):
    """The extras without which a command says that a package is missing."""
    _, name, *arguments = command
    flags = {argument.partition("=")[0] for argument in arguments}
    extras = set()
    if name == "serve":
        extras = {"server"} | ({"gpu"} if "cuda" in arguments else set())
        extras |= {"otel"} if "--tracing" in flags else set()
        extras |= {"remote"} if any("://" in argument for argument in arguments) else set()
    elif name in ("export", "inspect"):
        extras = {"export"}
        if name == "export" and "int8" in arguments and not flags & {"--layer", "--all-layers"}:
            extras |= {"server"}  # the error is measured by ONNX Runtime
    elif name == "explore":
        extras = {"explore"} | ({"export"} if "--checkpoint" in flags else set())
        extras |= set() if "--server" in flags else {"server"}
    elif name == "demo":
        extras = {"server", "viz"} | ({"export"} if "--checkpoint" in flags else set())
    elif flags & ({"--png", "--weights"} if name in ("attend", "forward") else {"--plot"}):
        extras = {"viz"}
    return extras
