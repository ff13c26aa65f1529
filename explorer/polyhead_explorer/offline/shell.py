"""The page as one file, with its scripts and styles, and a place for answers."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from polyhead_explorer.offline.answers import MARK
from polyhead_explorer.offline.bundle import bundle_modules

__all__ = ["page_script", "page_shell", "page_styles", "served_page"]

_PAGE = Path(__file__).parents[1] / "page"
_STYLE = re.compile(r'<link rel="stylesheet" href="([^"]+)" />')
_BUNDLED = re.compile(r' *<link rel="(?:stylesheet|modulepreload)"[^>]*>\n')
_LEFT_OUT = re.compile(
    r' *<link rel="(?:stylesheet|modulepreload|icon)"[^>]*>\n| *<script [^>]*></script>\n'
)


@cache
def page_script() -> str:
    """Return all modules as one script."""
    return bundle_modules(_PAGE, "app.js")


@cache
def page_styles() -> str:
    """Return all style sheets as one, in the order of index.html."""
    page = (_PAGE / "index.html").read_text(encoding="utf-8")
    return "\n".join((_PAGE / name).read_text(encoding="utf-8") for name in _STYLE.findall(page))


@cache
def served_page(script: str, styles: str) -> str:
    """Return index.html with one script and one style sheet, at these addresses.

    Fifty requests for modules delayed the first view by 0.3 s.
    """
    page = (_PAGE / "index.html").read_text(encoding="utf-8")
    page = _BUNDLED.sub("", page)
    page = page.replace("</head>", f'  <link rel="stylesheet" href="{styles}" />\n  </head>')
    return page.replace('src="app.js"', f'src="{script}"')


@cache
def page_shell() -> str:
    """Return the page as one file. Its content security policy forbids all requests."""
    page = (_PAGE / "index.html").read_text(encoding="utf-8")
    styles = page_styles()
    script = page_script().replace("</", r"<\/").replace("<!--", r"<\!--")
    logo = base64.b64encode((_PAGE / "logo.svg").read_bytes()).decode()
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(styles)}'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'"
    )
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}" />\n'
        f'    <link rel="icon" href="data:image/svg+xml;base64,{logo}" />\n'
        f"    <style>{styles}</style>\n  </head>"
    )
    page = _LEFT_OUT.sub("", page)
    page = page.replace('src="logo.svg"', f'src="data:image/svg+xml;base64,{logo}"')
    page = page.replace("</head>", head)
    return page.replace("</body>", f"{MARK}<script type=module>{script}</script>\n  </body>")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
