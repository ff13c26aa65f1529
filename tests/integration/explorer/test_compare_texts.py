"""This text compared with another in the same head, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads

from polyhead import Weights

pytestmark = needs_browser

RIVER = "Tom is going to fish at the river bank."
MONEY = "Tom is going to the bank to deposit money."
OF_RIVER = {"bank": 9, "the": 7, "to": 4, "river": 8}
OF_MONEY = {"bank": 6, "the": 5, "to": 4, "money": 9}
ABSENT = "not there"


@pytest.fixture
def tab(browser, page):
    address = f"{page.address}#model=bert&view=compare&layer=1&head=2"
    with opened(browser, address) as found:
        yield found


@pytest.fixture(scope="module")
def weights(client):
    """Layer 1, head 2 of this text and of the other: (tokens, tokens)."""
    found = {}
    for text in (RIVER, MONEY):
        result = client.forward(text, model="bert", need_weights={1: Weights(heads=2)})
        found[text] = result.attn_weights[1][0, 0]
    return found


def lines_of(tab):
    """The table's lines, by their names."""
    tab.locator(".compare-content[aria-busy=false] tbody tr").first.wait_for()
    return {
        row.locator("th").inner_text(): [cell.inner_text() for cell in row.locator("td").all()]
        for row in tab.locator(".compare-content tbody tr").all()
    }


def number(text):
    return float(text.replace("\u2212", "-"))


def test_a_tokens_row_in_both_texts_is_the_servers(tab, weights):
    tab.get_by_role("button", name="The chosen token").click()
    tab.get_by_text("What bank looks at").wait_for()
    lines = lines_of(tab)
    ours, theirs = weights[RIVER][OF_RIVER["bank"]], weights[MONEY][OF_MONEY["bank"]]
    for name in ("bank", "the"):
        first, second, difference = map(number, lines[name])
        expected = ours[OF_RIVER[name]], theirs[OF_MONEY[name]]
        assert (first, second) == pytest.approx(expected, abs=0.006)
        assert difference == pytest.approx(expected[1] - expected[0], abs=0.006)
    assert lines["river"][1:] == [ABSENT, ""]
    assert lines["money"][0] == ABSENT
    assert number(lines["money"][1]) == pytest.approx(theirs[OF_MONEY["money"]], abs=0.006)


def test_the_largest_differences_of_the_maps_are_told(tab, weights):
    pairs = {name: (OF_RIVER[name], OF_MONEY[name]) for name in ("bank", "the", "to")}
    differences = {
        f"{query} → {key}": weights[MONEY][b, d] - weights[RIVER][a, c]
        for query, (a, b) in pairs.items()
        for key, (c, d) in pairs.items()
    }
    lines = lines_of(tab)
    assert len(lines) == 8
    shown = {name: number(cells[2]) for name, cells in lines.items()}
    sizes = np.abs(list(shown.values()))
    assert (np.diff(sizes) <= 0.006).all()
    for name, difference in differences.items():
        if name in shown:
            assert shown[name] == pytest.approx(difference, abs=0.006)
        else:
            assert abs(difference) <= sizes[-1] + 0.006
    tab.get_by_text("9 of this text's 12 tokens have a partner").wait_for()


def test_tokens_can_belong_together_by_position(tab, weights):
    tab.get_by_role("button", name="The chosen token").click()
    tab.get_by_label("Tokens belong together by").select_option("position")
    tab.get_by_text("12 of this text's 12 tokens have a partner").wait_for()
    first, second, _ = map(number, lines_of(tab)["fish | the"])
    assert first == pytest.approx(weights[RIVER][9, 5], abs=0.006)
    assert second == pytest.approx(weights[MONEY][9, 5], abs=0.006)


def test_a_token_of_one_text_alone_cannot_be_compared(tab):
    tab.get_by_role("button", name="The chosen token").click()
    lines_of(tab)
    tab.locator("#tokens button", has_text="river").click()
    tab.get_by_text("river has no partner in the other text: choose another.").wait_for()


def test_a_link_restores_both_texts(browser, tab):
    lines_of(tab)
    tab.locator("#other").fill("Tom is at the bank.")
    tab.get_by_text("8 of this text's 12 tokens have a partner").wait_for()
    tab.get_by_role("button", name="Swap").click()
    with opened(browser, tab.url) as again:
        again.get_by_text("8 of this text's 8 tokens have a partner").wait_for()
        assert again.locator("#text").input_value() == "Tom is at the bank."
        assert again.locator("#other").input_value() == RIVER


def test_hidden_tokens_are_left_out_of_both(tab):
    tab.get_by_role("button", name="The chosen token").click()
    assert "[CLS]" in lines_of(tab)
    tab.get_by_label("Hide special tokens").check()
    tab.get_by_text("Without [CLS], [SEP]").wait_for()
    tab.locator(".compare-content tbody th", has_text="[CLS]").wait_for(state="detached")
    firsts = tab.locator(".compare-content tbody td:nth-child(2)").all_inner_texts()
    shown = [number(text) for text in firsts if text != ABSENT]
    assert len(shown) == 10
    assert sum(shown) == pytest.approx(1, abs=0.05)


def test_the_maps_are_read_with_the_arrow_keys(tab):
    lines_of(tab)
    tab.get_by_role("application", name="Heat maps of this text").press("ArrowLeft")
    readout = tab.locator("#view-compare .readout")
    readout.get_by_text("bank looks at the: ").wait_for()
    tab.keyboard.press("ArrowRight")
    readout.get_by_text("bank looks at bank: ").wait_for()


def test_words_that_only_the_other_text_lacks_are_named(browser, page):
    with opened(browser, f"{page.address}#model=river-bank&view=compare&other=Anna") as tab:
        tab.get_by_text("does not know: anna").wait_for()
        assert painted_heads(tab).count() == 2


def test_the_maps_stand_below_each_other_on_a_small_screen(browser, page):
    with opened(browser, f"{page.address}#model=bert&view=compare", 360, 740) as tab:
        lines_of(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
