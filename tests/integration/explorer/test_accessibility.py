"""What axe-core finds: nothing serious, in any view, light and dark, wide and narrow."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, settled

pytestmark = [
    needs_browser,
    pytest.mark.skipif(
        find_spec("axe_playwright_python") is None,
        reason="axe-playwright-python is not installed (extra dev)",
    ),
]

SERIOUS = ("serious", "critical")


def serious_findings(tab, rules=None):
    """What is wrong, and where: one line each. ``rules``: which are tried; None: all."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    return [
        f"{found['id']}: {found['help']}: {node['html'][:120]}"
        for found in Axe().run(tab, options=options).response["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]


@pytest.mark.parametrize(
    ("model", "width"),
    [("bert", 360), ("bart&attention=cross", 360), ("bert&textPair=The+bank", 360), ("vit", 1280)],
)
def test_no_view_has_serious_findings(browser, page, model, width):
    address = f"{page.address}#model={model}&layer=1&head=1"
    # Playwright may evaluate axe's script in spite of the page's policy only if it is asked to.
    with opened(browser, address, width, color_scheme="dark", bypass_csp=True) as tab:
        painted_heads(tab)
        views = tab.locator("#detail [role=tab]:visible").all()
        assert len(views) >= 5
        if model == "vit":
            views = views[:1]  # the others are as those of texts
        for theme, rules in (("Dark", None), ("Light", ["color-contrast"])):
            for view in views:
                view.click()
                settled(tab, "detail")
                tab.locator("#detail [aria-busy=true]").first.wait_for(state="detached")
                assert serious_findings(tab, rules) == [], f"{theme}: {view.inner_text()}"
            if theme == "Dark":
                tab.get_by_role("button", name="Light").click()
        tab.get_by_role("button", name="Save", exact=True).click()
        assert serious_findings(tab) == []
