"""Makes pages of docstrings easier to read: a line for each argument, no `::` before code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_ALONE = re.compile(r"<p>::</p>\n?")
_AT_THE_END = re.compile(r"::</p>")
_ARGUMENT = re.compile(r"(?<=[.)])\s+(?=<code>\w+</code>(?:, <code>\w+</code>)*: )")


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Return a page of the reference with these changes, and others as they are."""
    if not page.file.src_uri.startswith("reference/"):
        return html
    html = _AT_THE_END.sub(":</p>", _ALONE.sub("", html))
    return _ARGUMENT.sub("<br>\n", html)
