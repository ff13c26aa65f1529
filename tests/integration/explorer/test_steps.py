"""One row step by step, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads

from polyhead import Weights

pytestmark = needs_browser

TEXT = "Tom is going to fish at the river bank."
BANK = 9


def steps_of(tab):
    """The table's rows, by key: the number of each step."""
    tab.locator(".steps[aria-busy=false] table").wait_for()
    titles = [cell.inner_text().split("\n")[0] for cell in tab.locator(".steps thead th").all()]
    rows = {}
    for row in tab.locator(".steps tbody tr").all():
        numbers = [cell.locator(".number").all_inner_texts() for cell in row.locator("td").all()]
        named = zip(titles[1:], numbers, strict=True)
        rows[row.locator("th").inner_text()] = {
            title.lstrip("0123456789 "): number(texts[0]) for title, texts in named if texts
        }
    return rows


def number(text):
    return float(text.replace("\u2212", "-").replace("∞", "inf"))


def open_steps(browser, page, rest):
    return opened(browser, f"{page.address}#view=steps&{rest}")


def test_the_numbers_of_the_steps_are_the_servers(browser, page, client):
    with open_steps(browser, page, "model=bert&layer=1&head=2") as tab:
        rows = steps_of(tab)
        notes = tab.locator(".notes").inner_text()
    shown = {
        title: [row[title] for row in rows.values()]
        for title in ("Dot product", "Scaled", "Masked", "Softmax")
    }
    for title, stage in (("Scaled", "scores"), ("Masked", "masked"), ("Softmax", "weights")):
        wanted = {1: Weights(heads=2, queries=BANK, stage=stage)}
        row = client.forward(TEXT, model="bert", need_weights=wanted).attn_weights[1][0, 0, 0]
        np.testing.assert_allclose(shown[title], row, atol=0.006)
    scale = client.model("bert").whole.stacks[0].layers[1].self_attention.scale
    np.testing.assert_allclose(
        np.multiply(shown["Dot product"], scale), shown["Scaled"], atol=0.006
    )
    assert "nothing is masked here" in notes
    assert "the head's own vectors, from the server" in notes


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_a_value_is_as_long_as_the_server_says(browser, page, model):
    [(_, vectors)] = page.ask("vectors", model=model, text=TEXT, layer=0, head=0, query=BANK)
    with open_steps(browser, page, f"model={model}") as tab:
        shown = [row["Weighted value"] for row in steps_of(tab).values()]
        output = tab.get_by_text("Its length is")
        assert f"{vectors['context_length'][0]:.2f}" in output.inner_text()
        tab.get_by_text("This head's query q: 16 numbers").wait_for()
        # a strip of the key, one of the terms, and one of the weighted value
        assert tab.locator(".steps tbody tr").first.locator(".strip").count() == 3
    np.testing.assert_allclose(shown, vectors["weighted_length"], atol=0.006)


def test_what_a_causal_model_masks_is_said(browser, page):
    with open_steps(browser, page, "model=gpt2") as tab:
        rows = steps_of(tab)
        assert [name for name, row in rows.items() if row["Masked"] == -np.inf] == [".", "[SEP]"]
        assert rows["[SEP]"]["Softmax"] == 0
        assert rows["[SEP]"]["Scaled"] > -np.inf
        assert rows["[SEP]"]["Weighted value"] == 0
        tab.get_by_text("a token does not see later ones: \u2212∞.").wait_for()


def test_the_river_banks_numbers_have_names(browser, page):
    with open_steps(browser, page, "model=river-bank") as tab:
        steps_of(tab)
        named = tab.locator(".named").first.locator("li").all_inner_texts()
        assert [text.split() for text in named[:3]] == [
            ["town", "0"], ["water", "0.30"], ["money", "0.30"]
        ]  # fmt: skip
        tab.locator("#tokens button", has_text="river").click()
        tab.get_by_text("river enters as x: 6 numbers").wait_for()
        tab.get_by_text("which is added to river").wait_for()
        assert tab.locator(".named").count() == 2


def test_a_model_of_an_older_export_shows_the_numbers_that_it_gives(browser, page):
    with open_steps(browser, page, "model=old") as tab:
        row = steps_of(tab)["bank"]
        assert {"Scaled", "Masked", "Softmax"} == row.keys()
        assert tab.get_by_text("Export it again").count() == 2


def test_a_long_text_shows_the_keys_with_the_largest_weights_first(browser, page):
    text = "+".join([TEXT.replace(" ", "+")] * 3)
    with open_steps(browser, page, f"model=bert&text={text}") as tab:
        tab.locator(".steps[aria-busy=false] table").wait_for()
        assert tab.locator(".steps tbody tr").count() == 24
        tab.get_by_role("button", name="All 32 keys").press("Enter")
        tab.get_by_role("button", name="The largest 24").wait_for()
        assert tab.locator(".steps tbody tr").count() == 32


def test_the_table_scrolls_on_a_small_screen_and_the_page_does_not(browser, page):
    address = f"{page.address}#view=steps&model=bert"
    with opened(browser, address, 360, 740) as tab:
        painted_heads(tab)
        tab.locator(".steps[aria-busy=false] table").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        scroller = tab.get_by_role("region", name="Steps 2 to 7")
        scroller.focus()
        assert scroller.evaluate("element => element.scrollWidth > element.clientWidth")
