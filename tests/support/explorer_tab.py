"""The explorer's page in a browser: opened, and waited for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, Locator, Page

__all__ = ["opened", "painted_heads", "saved_arrays", "saved_file", "settled", "token_group"]


@contextmanager
def opened(
    browser: Browser, address: str, width: int = 1280, height: int = 800, **options: object
) -> Iterator[Page]:
    """Open the page; fail if it asked other hosts for something, or an error was logged."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    tab = context.new_page()
    errors, hosts = [], set()
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("request", lambda request: hosts.add(_host(request.url)))
    tab.goto(address)
    try:
        yield tab
        assert [error for error in errors if "Failed to load resource" not in error] == []
        assert hosts <= {"localhost", "data:", "blob:", _host(address)}
    finally:
        context.close()


def settled(tab: Page, panel: str) -> None:
    """Wait until a panel shows what was asked for last."""
    tab.locator(f"#{panel}[aria-busy=false]").wait_for()


def painted_heads(tab: Page) -> Locator:
    """Return the heads of the grid, when all layers have run."""
    settled(tab, "overview")
    return tab.locator(".cell:not(.waiting)")


def token_group(tab: Page, name: str) -> Locator:
    """Return the tokens of one of several texts.

    They are not found by role, because Firefox 159 crashes when Playwright then looks for labels.
    """
    return tab.locator(f'[role=group][aria-label="{name}"]:visible')


def saved_file(tab: Page, label: str, folder: Path) -> Path:
    """Save something by the menu; return the file."""
    if not tab.locator("#save-menu").is_visible():
        tab.get_by_role("button", name="Save", exact=True).click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name=label).click()
    tab.locator("#save-menu").get_by_text("Saved, ").wait_for()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    tab.keyboard.press("Escape")
    return path


def saved_arrays(tab: Page, folder: Path) -> dict[str, NDArray[np.generic]]:
    """Save the view's numbers by the menu; return them by name."""
    with np.load(saved_file(tab, "Numbers, NumPy", folder)) as arrays:
        return dict(arrays)


def _host(url: str) -> str:
    scheme, _, rest = url.partition(":")
    return f"{scheme}:" if scheme in ("data", "blob") else rest.split("/")[2].partition(":")[0]
