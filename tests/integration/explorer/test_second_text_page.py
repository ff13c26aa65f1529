"""A second text in a real browser: one sequence of two texts, in all views."""

from __future__ import annotations

import csv
import io
import re
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, saved_arrays, saved_file, settled, token_group

pytestmark = needs_browser

TEXT, PAIR = "Tom is going to fish.", "Tom is at the river bank."
OTHER = "Tom is going to deposit money."
FIRST = ["[CLS]", *TEXT[:-1].split(), ".", "[SEP]"]
SECOND = [*PAIR[:-1].split(), ".", "[SEP]"]
NAMES = [*FIRST, *(f"{token}²" for token in SECOND[:-1]), "[SEP]"]
"""The names of the tokens where tokens of both texts are listed."""
BANK = NAMES.index("bank²")
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def weights(client):
    """Layer 1, head 2: (tokens, tokens)."""
    result = client.forward(TEXT, text_pair=PAIR, model="bert", need_weights=True)
    return result.attn_weights[1][0, 2]


def address(page, **choices):
    state = {"model": "bert", "text": TEXT, "textPair": PAIR, "layer": 1, "head": 2, **choices}
    return f"{page.address}#{urlencode(state)}"


@pytest.fixture
def tab(browser, page):
    with opened(browser, address(page)) as found:
        painted_heads(found)
        settled(found, "detail")
        yield found


def second_field(tab):
    return tab.get_by_label("Second text", exact=True)


def tokens_of(tab, name):
    return token_group(tab, name).locator("button").all_inner_texts()


def names_in(tab, table):
    tab.locator(f"{table} tbody tr").first.wait_for()
    return tab.locator(f"{table} tbody th").all_inner_texts()


def test_a_second_text_is_added_and_removed_by_the_keyboard(browser, page):
    with opened(browser, f"{page.address}#{urlencode({'model': 'bert', 'text': TEXT})}") as tab:
        painted_heads(tab)
        assert second_field(tab).is_hidden()
        assert tab.locator("#tokens button").all_inner_texts() == FIRST
        tab.get_by_role("button", name="Add a second text").press("Enter")
        tab.locator("#text-pair:focus").wait_for()
        tab.keyboard.type(PAIR)
        token_group(tab, "Tokens of the second text").wait_for()
        assert tokens_of(tab, "Tokens of the text") == FIRST
        assert tokens_of(tab, "Tokens of the second text") == SECOND
        assert tab.get_by_role("button", name="Add a second text").is_hidden()
        with opened(browser, tab.url) as again:
            token_group(again, "Tokens of the second text").wait_for()
            assert second_field(again).input_value() == PAIR
        second_field(tab).fill(" ")  # an empty text is none
        token_group(tab, "Tokens of the second text").wait_for(state="detached")
        assert second_field(tab).is_visible()
        assert "textPair" not in tab.url
        second_field(tab).fill(PAIR)
        token_group(tab, "Tokens of the second text").wait_for()
        tab.get_by_role("button", name="Remove the second text").press("Enter")
        token_group(tab, "Tokens of the second text").wait_for(state="detached")
        assert second_field(tab).is_hidden()
        assert tab.locator("button:focus").inner_text() == "Add a second text"


@pytest.mark.parametrize("model", ["gpt2", "clip", "river-bank", "vit"])
def test_models_without_pairs_have_one_text(browser, page, model):
    with opened(browser, address(page, model=model)) as tab:
        painted_heads(tab)
        assert tab.get_by_role("button", name="Add a second text").is_hidden()
        assert second_field(tab).is_hidden()
        assert token_group(tab, "Tokens of the second text").count() == 0


def test_numbers_lead_from_one_text_to_the_other(tab, weights):
    assert tab.locator("#tokens [aria-pressed=true]").inner_text() == "bank"
    rows = tab.locator("table.largest-weights").filter(has_text="bank² looks at")
    shown = [
        tuple(row.locator("th, .number").all_inner_texts())
        for row in rows.locator("tbody tr").all()
    ]
    order = np.argsort(-weights[BANK], kind="stable")[:8]
    assert [name for name, _ in shown] == [NAMES[place] for place in order]
    values = [float(value) for _, value in shown]
    np.testing.assert_allclose(values, weights[BANK, order], atol=0.006)


def test_the_arrow_keys_lead_into_the_second_text(tab):
    token_group(tab, "Tokens of the text").get_by_text("[SEP]").click()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tokens [aria-pressed=true]").inner_text() == "Tom"
    tab.get_by_text("Tom² looks at").first.wait_for()


@pytest.mark.parametrize("view", ["Lines", "Heat map", "Compare texts"])
def test_a_line_is_drawn_where_the_second_text_begins(browser, page, tmp_path, view):
    for texts, num_lines in (({}, 2), ({"textPair": ""}, 0)):
        with opened(browser, address(page, **texts)) as tab:
            painted_heads(tab)
            tab.get_by_role("tab", name=view).click()
            settled(tab, "detail")
            tab.locator("#detail [aria-busy=true]").first.wait_for(state="detached")
            drawing = ET.parse(saved_file(tab, "Picture, SVG", tmp_path)).getroot()
        dashed = [path for path in drawing.iter(f"{SVG}path") if path.get("stroke-dasharray")]
        assert len(dashed) == num_lines * (3 if view == "Compare texts" else 1)


def test_the_grid_has_a_line_where_the_second_text_begins(tab):
    def place():
        table = tab.locator(".grid")
        names = ("--row-boundary", "--column-boundary")
        return [
            table.evaluate(f"each => getComputedStyle(each).getPropertyValue('{name}')")
            for name in names
        ]

    assert place() == ["50%", "50%"]
    tab.get_by_label("Hide special tokens").check()
    settled(tab, "detail")
    first, second = place()
    assert first == second
    assert float(first.rstrip("%")) == pytest.approx(100 * 6 / 13)
    tab.get_by_role("button", name="Remove the second text").click()
    token_group(tab, "Tokens of the second text").wait_for(state="detached")
    assert place() == ["", ""]


def test_the_steps_name_the_text_of_each_key(tab):
    tab.get_by_role("tab", name="Step by step").click()
    assert names_in(tab, ".steps[aria-busy=false]") == NAMES
    assert tab.locator(".steps tr.begins-text th").all_inner_texts() == ["Tom²"]
    tab.get_by_text("bank² enters as x").wait_for()


def test_another_text_is_compared_with_the_same_second_text(tab, client, tmp_path):
    tab.get_by_role("tab", name="Compare texts").click()
    tab.locator("#other").fill(OTHER)
    note = "The other text has the same second text. Equal words belong together"
    tab.get_by_text(note).wait_for()
    # all tokens of the second text, and all of the first but "fish"
    tab.get_by_text("15 of these 16 tokens have a partner, and 2 of the other's").wait_for()
    tab.locator(".compare-content[aria-busy=false]").wait_for()
    saved = saved_arrays(tab, tmp_path)
    other = client.forward(OTHER, text_pair=PAIR, model="bert", need_weights=True)
    np.testing.assert_allclose(saved["other_weights"], other.attn_weights[1][0, 2], **ROUNDING)
    assert "bank²" in saved["other_weights_columns"]
    tab.get_by_label("Tokens belong together by").select_option("position")
    tab.get_by_role("button", name="The chosen token").click()
    tab.get_by_text("What bank² looks at").wait_for()
    names = tab.locator(".compare-content tbody th").all_inner_texts()
    assert {"bank²", "Tom²", "fish | deposit"} <= set(names)
    tab.get_by_role("button", name="Swap").click()
    assert second_field(tab).input_value() == PAIR


def test_a_path_names_the_text_of_each_token(tab):
    tab.get_by_role("tab", name="A word's path").click()
    tab.get_by_role("heading", name="How “bank²” moves").wait_for()
    tab.get_by_label("and in the other text").check()
    tab.get_by_text("The other text has the same second text.").wait_for()
    tab.locator(".path-content[aria-busy=false]").wait_for()
    assert tab.get_by_role("columnheader", name="axis 1 (other text)").is_visible()


def test_files_name_both_texts(tab, weights, tmp_path):
    saved = saved_arrays(tab, tmp_path)
    np.testing.assert_allclose(saved["weights"], weights, **ROUNDING)
    assert saved["weights_rows"].tolist() == saved["weights_columns"].tolist() == NAMES
    text = saved_file(tab, "Numbers, CSV", tmp_path).read_text("utf-8")
    assert next(csv.reader(io.StringIO(text))) == ["weights", *NAMES]
    drawing = ET.parse(saved_file(tab, "Picture, SVG", tmp_path)).getroot()
    texts = [element.text for element in drawing.iter(f"{SVG}text")]
    caption = f"bert, layer 1, head 2: {TEXT} | second text ²: Tom is"
    assert any(text.startswith(caption) for text in texts)
    assert "river²" in {text.split()[0] for text in texts}


def test_a_saved_page_has_both_texts_and_the_compared_one(browser, tab, tmp_path):
    path = saved_file(tab, "Page that works offline", tmp_path)
    online = saved_arrays(tab, tmp_path)["weights"]
    with opened(browser, path.as_uri(), offline=True) as offline:
        painted_heads(offline)
        settled(offline, "detail")
        assert second_field(offline).get_attribute("readonly") is not None
        assert offline.get_by_role("button", name="Add a second text").is_hidden()
        assert offline.get_by_role("button", name="Remove the second text").is_hidden()
        assert tokens_of(offline, "Tokens of the second text") == SECOND
        shown = saved_arrays(offline, tmp_path)["weights"]
        np.testing.assert_allclose(shown, online, rtol=2e-3, atol=2e-5)
        offline.get_by_role("tab", name="Compare texts").click()
        offline.get_by_text("The other text has the same second text.").wait_for()
        offline.get_by_role("tab", name="Step by step").click()
        assert names_in(offline, ".steps[aria-busy=false]") == NAMES


def test_an_encoder_has_a_second_text_beside_the_decoders_text(browser, page):
    state = {"model": "bart", "attention": "cross", "decoderText": "Tom is going."}
    with opened(browser, address(page, **state)) as tab:
        painted_heads(tab)
        assert tab.get_by_label("Second text of the encoder").input_value() == PAIR
        assert tokens_of(tab, "Tokens of the encoder") == FIRST
        assert tokens_of(tab, "Tokens of the second text") == SECOND
        decoder = ["[CLS]", "[CLS]", "Tom", "is", "going", "."]
        assert tokens_of(tab, "Tokens of the decoder") == decoder
        token_group(tab, "Tokens of the second text").get_by_text("bank").click()
        tab.get_by_text("Tokens that look at bank²").wait_for()
        tab.get_by_role("tab", name="Compare texts").click()
        tab.get_by_text(
            re.compile("same second text. The encoder reads the other text, and the decoder")
        ).wait_for()


def test_two_texts_fit_a_small_screen(browser, page):
    with opened(browser, address(page), 360, 740) as tab:
        painted_heads(tab)
        for view in tab.locator("#detail [role=tab]:visible").all():
            view.click()
            settled(tab, "detail")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert tab.locator("#tokens [aria-pressed=true]").is_visible()
