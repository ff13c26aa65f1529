"""Writes tables in Markdown, and publishes them between markers in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import describe_machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DOCS", "RESULTS", "publish", "print_now", "table"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
DOCS = ROOT / "docs"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1) -> str:
    """Format a table. The first ``texts`` columns are text, the others numbers."""
    rules = ["---"] * texts + ["--:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rules, *rows))


def publish(name: str, text: str, file: Path) -> None:
    """Replace the text in a file between ``<!-- name -->`` and ``<!-- /name -->``."""
    opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = file.read_text().partition(opening)
    _, ends, after = rest.partition(closing)
    if not (found and ends):
        raise ValueError(f"{file} has no {opening} … {closing} to write between")
    section = f"{opening}\n{describe_machine()}\n\n{text}\n{closing}"
    file.write_text(before + section + after)
    print_now(f"wrote {name} into {file.relative_to(ROOT)}")


def print_now(text: str) -> None:
    """Print a line at once, so that progress is visible."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
