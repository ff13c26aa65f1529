"""Heads in the order of what they do, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, settled

pytestmark = needs_browser

TEXT = "Tom is going to fish at the river bank."
BANK, RIVER = 9, 8


@pytest.fixture
def tab(browser, page):
    with opened(browser, f"{page.address}#model=bert") as found:
        painted_heads(found)
        yield found


@pytest.fixture(scope="module")
def weights(client):
    """(layers, heads, tokens, tokens)"""
    result = client.forward(TEXT, model="bert", need_weights=True)
    return np.concatenate([result.attn_weights[layer] for layer in range(2)])


def ranked(tab):
    """The heads as they are listed: layer and head, and the number beside them."""
    settled(tab, "ranking")
    tab.locator("#ranking tbody tr").first.wait_for()
    rows = tab.locator("#ranking tbody tr").all()
    return [
        (row.locator("button").inner_text(), float(row.locator(".number").inner_text()))
        for row in rows
    ]


def expected_order(values):
    places = sorted(np.ndindex(values.shape), key=lambda place: -values[place])
    return [(f"Layer {layer}, head {head}", values[layer, head]) for layer, head in places]


def check(tab, values):
    shown, expected = ranked(tab), expected_order(values)
    assert [name for name, _ in shown] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [value for _, value in shown], [value for _, value in expected], atol=0.006
    )


def test_each_measure_lists_the_heads_that_do_it_most(tab, weights):
    check(tab, np.diagonal(weights, -1, 2, 3).mean(-1))
    tab.locator("#measure").select_option("same")
    check(tab, np.diagonal(weights, 0, 2, 3).mean(-1))
    tab.locator("#measure").select_option("first")
    check(tab, weights[:, :, 1:, 0].mean(-1))


def test_a_pair_is_chosen_by_the_viewer_and_kept_in_the_link(browser, tab, weights):
    tab.locator("#measure").select_option("pair")
    tab.locator(f'#pair-key option[value="{RIVER}"]:checked').wait_for(state="attached")
    check(tab, weights[:, :, BANK, RIVER])
    tab.locator("#pair-key").select_option("3")
    check(tab, weights[:, :, BANK, 3])
    with opened(browser, tab.url) as again:
        painted_heads(again)
        assert again.locator("#pair-key").input_value() == "3"
        check(again, weights[:, :, BANK, 3])


def test_a_head_of_the_list_is_shown_when_it_is_pressed(tab):
    first, second = [name for name, _ in ranked(tab)[:2]]
    tab.locator("#ranking tbody button").first.press("ArrowDown")
    tab.keyboard.press("Enter")
    tab.get_by_role("heading", name=second).wait_for()
    assert tab.evaluate("document.activeElement.textContent") == second
    tab.locator("#ranking").get_by_role("button", name=first).click()
    tab.get_by_role("heading", name=first).wait_for()


def test_the_grid_shows_the_measure(tab, weights):
    tab.get_by_label("Show in the grid").check()
    value = np.diagonal(weights, -1, 2, 3).mean(-1)[1, 2]
    cell = tab.get_by_role("button", name=f"Layer 1, head 2: {value:.2f}")
    assert cell.locator(".cell-number").inner_text() == f"{value:.2f}".lstrip("0")


def test_a_pair_with_a_hidden_token_is_said_to_have_no_weight(tab):
    tab.locator("#measure").select_option("pair")
    tab.locator("#pair-key").select_option("0")
    settled(tab, "ranking")
    tab.get_by_label("Hide special tokens").check()
    tab.get_by_text("One of the two tokens is hidden.").wait_for()
    assert tab.locator("#ranking tbody tr").count() == 0


def test_models_in_which_no_token_sees_the_next_say_so(browser, page):
    with opened(browser, f"{page.address}#model=gpt2&measure=next") as tab:
        painted_heads(tab)
        tab.get_by_text("In this model no token sees a later one.").wait_for()


def test_a_ranking_can_be_stopped_and_gone_on_with(tab, weights):
    tab.route("**/api/pair", lambda _: None)  # it is never answered
    tab.locator("#measure").select_option("pair")
    ranking = tab.locator("#ranking")
    ranking.get_by_text("0 of 2 layers").wait_for()
    ranking.get_by_role("button", name="Stop").click()
    tab.unroute("**/api/pair")
    ranking.get_by_role("button", name="Go on").click()
    ranking.locator("tbody tr").first.wait_for()
    check(tab, weights[:, :, BANK, RIVER])
