"""The main views in a Firefox. `make firefox-test` runs all tests of the page there."""

from __future__ import annotations

import re

import pytest
from browser import needs_firefox, started_firefox
from explorer_tab import opened, painted_heads, saved_file, settled

pytestmark = needs_firefox


@pytest.fixture(scope="module")
def firefox():
    with started_firefox() as started:
        yield started


def test_all_views_are_shown_and_saved(firefox, page, tmp_path):
    """No view logs an error, as a violation of the page's policy would be."""
    with opened(firefox, f"{page.address}#model=bert&layer=1&head=2", width=360) as tab:
        assert painted_heads(tab).count() == 8
        shown = views_of(tab)
        assert saved_file(tab, "Picture, PNG", tmp_path).read_bytes().startswith(b"\x89PNG")
        path = saved_file(tab, "Page that works offline", tmp_path)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    with opened(firefox, path.as_uri(), offline=True) as tab:
        tab.get_by_text(re.compile("It works offline")).wait_for()
        assert painted_heads(tab).count() == 8
        assert views_of(tab) == shown


def views_of(tab) -> dict[str, list[str]]:
    """Return the rows of each view's tables, sorted because a saved page has rounded numbers."""
    views = {}
    for view in tab.locator("#detail [role=tab]:visible").all():
        view.click()
        settled(tab, "detail")
        tab.locator("#detail [aria-busy=true]").first.wait_for(state="detached")
        rows = tab.locator("#detail tbody tr:visible")
        rows.first.wait_for()
        views[view.inner_text()] = sorted(rows.all_inner_texts())
    assert len(views) == 5
    return views
