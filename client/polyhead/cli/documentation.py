"""Find the documentation on this machine: the wheel installs it, and a clone has it."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["documentation", "where_documentation_is"]

_FOLDER = "share/doc/polyhead"
"""The folder below the environment's, where `pip install` puts pyproject.toml's shared data."""


def documentation(name: str = "README.md") -> Path | None:
    """Return a document's path, such as that of docs/bench.md; None if it is not installed."""
    return next((path for folder in _folders() if (path := folder / name).is_file()), None)


def where_documentation_is(name: str = "README.md") -> str:
    """Return a line that names a document's path; empty: it is not here."""
    path = documentation(name)
    return f"Documentation: {path}" if path else ""


def _folders() -> Iterator[Path]:
    yield Path(__file__).parents[3]  # in a clone
    for scheme in (sysconfig.get_default_scheme(), f"{os.name}_user"):
        yield Path(sysconfig.get_path("data", scheme)) / _FOLDER
