"""The explorer's page of a result."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["ExplorerPage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplorerPage:
    """The explorer's page of one result: HTML that works offline and asks for nothing.

    A notebook shows it as the last value of a cell.
    """

    html: str = field(repr=False)
    """The page, as a file of its own."""
    height: int = 760
    """How high a notebook shows it, in pixels."""

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to a file, which any browser opens. Raises OSError."""
        Path(path).write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        # The sandbox keeps the page's script away from the notebook around it.
        return (
            f'<iframe title="Attention" sandbox="allow-scripts allow-downloads" '
            f'style="width: 100%; height: {self.height:d}px; border: 0" '
            f'srcdoc="{escape(self.html)}"></iframe>'
        )
