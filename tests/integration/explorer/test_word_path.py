"""How a word moves through the layers, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened

pytestmark = needs_browser

RIVER = "Tom is going to fish at the river bank."
MONEY = "Tom is going to the bank to deposit money."
BANK, OTHER_BANK = 9, 6


@pytest.fixture
def tab(browser, page):
    with opened(browser, f"{page.address}#model=bert&view=path") as found:
        yield found


def lines_of(tab):
    """The table's lines: the names of the steps, and what they say."""
    tab.locator(".path-content[aria-busy=false] tbody tr").first.wait_for()
    rows = tab.locator(".path-table tbody tr").all()
    return {
        row.locator("th").inner_text(): [
            cell.inner_text().replace("\u2212", "-") for cell in row.locator("td").all()
        ]
        for row in rows
    }


def points_of(lines, first=0):
    return [[float(text) for text in cells[first : first + 2]] for cells in lines.values()]


def test_the_path_is_the_explorers_in_words_and_numbers(tab, page):
    lines = lines_of(tab)
    *_, (header, path) = page.ask("path", model="bert", text=RIVER, query=BANK)
    assert list(lines) == ["before layer 0", "after layer 0", "after layer 1"]
    np.testing.assert_allclose(points_of(lines), path["points"][:, BANK], atol=0.006)
    tokens = ["[CLS]", *RIVER.removesuffix(".").split(), ".", "[SEP]"]
    assert [cells[-1] for cells in lines.values()] == [tokens[i] for i in header["nearest"]]
    tab.get_by_role("heading", name="How “bank” moves").wait_for()


def test_the_axes_can_be_two_words(browser, tab, client):
    tab.get_by_label("In a plane of").select_option("anchors")
    field = tab.get_by_label("Word of the second axis")
    field.fill("deposit")
    tab.get_by_role("columnheader", name="deposit").wait_for()
    lines = lines_of(tab)
    states = client.forward(RIVER, model="bert", need_hidden_states=True).hidden_states
    for axis, word in enumerate(("river", "deposit")):
        alone = client.forward(word, model="bert", need_hidden_states=True).hidden_states
        for step, point in enumerate(points_of(lines)):
            a, b = states[step][0, BANK], alone[step][0, 1]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            assert point[axis] == pytest.approx(cosine, abs=0.006)
    with opened(browser, tab.url) as again:
        assert points_of(lines_of(again)) == points_of(lines)
        assert again.get_by_label("Word of the second axis").input_value() == "deposit"


def test_the_word_of_the_other_text_moves_in_the_same_plane(tab, page):
    lines_of(tab)
    tab.get_by_label("and in the other text").check()
    tab.get_by_role("columnheader", name="(other text)").first.wait_for()
    fields = {"other": MONEY, "other_query": OTHER_BANK}
    *_, (_, path) = page.ask("path", model="bert", text=RIVER, query=BANK, **fields)
    np.testing.assert_allclose(points_of(lines_of(tab), 2), path["other_path"], atol=0.006)
    tab.locator("#tokens button", has_text="river").click()
    tab.get_by_text("The other text has no such word.").wait_for()


def test_the_keyboard_goes_from_layer_to_layer(browser, tab):
    lines_of(tab)
    chosen = tab.locator(".path-table [aria-pressed=true]")
    tab.get_by_label("Up to").press("ArrowLeft")
    tab.locator(".own", has_text="after layer 0").wait_for()
    tab.get_by_role("application", name="A path in a plane").press("ArrowLeft")
    tab.locator(".own", has_text="before layer 0").wait_for()
    tab.locator("#view-path .readout").get_by_text("before layer 0: nearest to ").wait_for()
    tab.get_by_role("button", name="after layer 1").press("Enter")
    tab.locator(".own", has_text="after layer 1").wait_for()
    assert tab.evaluate("document.activeElement.textContent") == chosen.inner_text()
    tab.get_by_label("Up to").press("Home")
    tab.locator(".own", has_text="before layer 0").wait_for()
    with opened(browser, tab.url) as again:
        lines_of(again)
        assert again.get_by_label("Up to").input_value() == "0"


def test_nothing_is_wider_than_a_small_screen(browser, page):
    with opened(browser, f"{page.address}#model=bert&view=path&plane=anchors", 360, 740) as tab:
        lines_of(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_path_can_be_stopped_and_gone_on_with(tab):
    lines_of(tab)
    tab.route("**/api/path", lambda _: None)  # it is never answered
    tab.get_by_label("In a plane of").select_option("anchors")
    view = tab.locator("#view-path")
    view.get_by_text("0 of 3 steps").wait_for()
    view.get_by_role("button", name="Stop").click()
    tab.unroute("**/api/path")
    view.get_by_role("button", name="Go on").click()
    tab.get_by_role("columnheader", name="money").wait_for()
