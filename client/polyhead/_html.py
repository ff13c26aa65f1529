"""Small tables for notebooks: escaped, without scripts, in the notebook's own style."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["html_table"]


def html_table(
    rows: Iterable[Sequence[object]], *, headings: Sequence[str] = (), caption: str = ""
) -> str:
    """Write a table. Each row's first cell is its name."""
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if headings:
        names = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
        parts.append(f"<thead><tr>{names}</tr></thead>")
    parts.append("<tbody>")
    for name, *cells in rows:
        values = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        parts.append(f'<tr><th scope="row">{escape(str(name))}</th>{values}</tr>')
    parts.append("</tbody></table>")
    return "".join(parts)
