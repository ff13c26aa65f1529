"""A headless Chromium of the system's, driven by Playwright."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

__all__ = ["chromium", "needs_chromium"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PATH = next(filter(None, map(shutil.which, _NAMES)), None)
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _reason() -> str:
    if _PATH is None:
        return f"no Chromium: found none of {', '.join(_NAMES)} (Debian: apt install chromium)"
    return "" if find_spec("playwright") else "Playwright is not installed (extra dev)"


needs_chromium = pytest.mark.skipif(bool(_reason()), reason=_reason())


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium, and end it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_PATH, args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()
