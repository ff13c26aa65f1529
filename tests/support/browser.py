"""A headless browser of the system's, driven by Playwright: a Chromium, or a Firefox."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

__all__ = ["needs_browser", "needs_firefox", "started_browser", "started_firefox"]

CHOSEN = os.environ.get("POLYHEAD_EXPLORER_BROWSER", "chromium")
"""The browser that all tests of the page use: chromium or firefox."""
_NAMES = {
    "chromium": ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox", "firefox-esr"),
}
_PATHS = {
    browser: next(filter(None, map(shutil.which, names)), None) for browser, names in _NAMES.items()
}
_CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def _needs(browser: str) -> pytest.MarkDecorator:
    reason = ""
    if _PATHS[browser] is None:
        reason = f"no {browser}: install one of {', '.join(_NAMES[browser])}"
    elif not find_spec("playwright"):
        reason = "Playwright is not installed (extra dev)"
    return pytest.mark.skipif(bool(reason), reason=reason)


needs_browser = _needs(CHOSEN)
needs_firefox = _needs("firefox")


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Start the chosen browser, and end it."""
    with started_firefox() if CHOSEN == "firefox" else _started_chromium() as browser:
        yield browser


@contextmanager
def started_firefox() -> Iterator[Browser]:
    """Start a Firefox, and end it. Skips the test if Playwright needs a newer one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        # This channel drives an ordinary Firefox, by WebDriver BiDi; without it Playwright expects
        # a Firefox of its own.
        browser = playwright.firefox.launch(
            channel="moz-firefox", executable_path=_PATHS["firefox"]
        )
        try:
            try:
                browser.new_context().close()
            except Error as error:
                if "unknown command" not in error.message:
                    raise
                reason = "Playwright sends commands that it does not know"
                pytest.skip(f"Firefox {browser.version} is too old: {reason}")
            yield browser
        finally:
            browser.close()


@contextmanager
def _started_chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=_PATHS["chromium"], args=list(_CHROMIUM_FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()
