"""Joins the page's modules into one script, because a single file cannot import modules."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["bundle_modules"]

_IMPORT = re.compile(r'^import (.*?) from "(\.[^"]+)";$', re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=((?:async )?function\*? |class |const |let )(\w+))", re.MULTILINE)
_OTHER = re.compile(r"^(import|export)\b.*|\bimport\(.*", re.MULTILINE)
_NAMES = re.compile(r"\{\s*\w+(\s*,\s*\w+)*\s*,?\s*\}")


def bundle_modules(folder: Path, entry: str) -> str:
    """Join an entry module and the modules that it imports. Each has a block after its imports.

    Modules may import and export declarations by name only, each in a statement that begins a line.
    Raises ValueError for any other import or export, and for a circle of imports.
    """
    blocks: list[str] = []
    added: set[Path] = set()

    def add(path: Path, importers: tuple[Path, ...]) -> None:
        if path in importers:
            raise ValueError(f"{path.name} imports itself, by {importers[-1].name}")
        if path in added:
            return
        text = path.read_text(encoding="utf-8")
        for _, source in _IMPORT.findall(text):
            add((path.parent / source).resolve(), (*importers, path))
        blocks.append(_block(path, folder.resolve()))
        added.add(path)

    add((folder / entry).resolve(), ())
    return '"use strict";\nconst modules = {};\n' + "\n".join(blocks)


def _block(path: Path, folder: Path) -> str:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(folder).as_posix()

    def to_declaration(match: re.Match[str]) -> str:
        if not _NAMES.fullmatch(match[1]):
            raise ValueError(f"{name}: expected an import of names; got {match[0]!r}")
        source = (path.parent / match[2]).resolve().relative_to(folder).as_posix()
        return f"const {match[1]} = modules[{json.dumps(source)}];"

    exports = [declaration[1] for declaration in _EXPORT.findall(text)]
    text = _EXPORT.sub("", _IMPORT.sub(to_declaration, text))
    if other := _OTHER.search(_without_comments(text)):
        raise ValueError(f"{name}: cannot be bundled because of {other[0]!r}")
    return f"{{ // {name}\n{text}\nmodules[{json.dumps(name)}] = {{ {', '.join(exports)} }};\n}}"


def _without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
