"""The page in a real browser: what a viewer sees and does."""

from __future__ import annotations

import re

import pytest
from browser import needs_browser
from explorer_page import explorer
from explorer_tab import opened, painted_heads, settled

from polyhead_server.running import running_server

pytestmark = needs_browser

TEXT = "Tom is going to fish at the river bank."
OTHER = "Tom is going to the bank to deposit money."


@pytest.fixture
def tab(browser, page):
    with opened(browser, f"{page.address}#model=bert") as found:
        yield found


def numbers(tab, caption):
    """A table of the chosen token's weights, as the page shows it."""
    rows = tab.locator("table.largest-weights").filter(has_text=caption).locator("tbody tr")
    rows.first.wait_for()
    return {
        row.locator("th").inner_text(): row.locator(".number").inner_text() for row in rows.all()
    }


def test_the_first_view_has_tokens_and_all_heads(tab):
    assert painted_heads(tab).count() == 8
    tokens = tab.locator("#tokens button").all_inner_texts()
    assert tokens == ["[CLS]", *TEXT.removesuffix(".").split(), ".", "[SEP]"]
    assert tab.locator("#tokens button[aria-pressed=true]").inner_text() == "bank"
    assert tab.locator("#detail h2").inner_text() == "Layer 0, head 0"


def test_the_numbers_are_the_servers(tab, client):
    painted_heads(tab).nth(6).click()
    assert tab.locator("#detail h2").inner_text() == "Layer 1, head 2"
    settled(tab, "detail")
    result = client.forward(TEXT, model="bert", need_weights=True)
    expected = dict(result.top("bank", layer=1, head=2, k=3))
    shown = numbers(tab, "bank looks at")
    for token, weight in expected.items():
        assert float(shown["Tom" if token == "tom" else token]) == pytest.approx(weight, abs=0.006)


def test_a_link_restores_what_was_seen(browser, tab):
    painted_heads(tab).nth(5).click()
    tab.get_by_role("button", name=OTHER).click()
    tab.get_by_role("tab", name="Heat map").click()
    tab.get_by_label("Colours").select_option("log")
    tab.get_by_label("Hide special tokens").check()
    tab.locator("#tokens button", has_text="deposit").click()
    with opened(browser, tab.url) as again:
        assert painted_heads(again).count() == 8
        assert again.locator("#text").input_value() == OTHER
        assert again.locator("#detail h2").inner_text() == "Layer 1, head 1"
        assert again.get_by_role("tab", name="Heat map").get_attribute("aria-selected") == "true"
        assert again.locator("#scale").input_value() == "log"
        assert again.get_by_label("Hide special tokens").is_checked()
        assert again.locator("#tokens [aria-pressed=true]").inner_text() == "deposit"


def test_hidden_tokens_are_named_and_their_weights_go(tab):
    painted_heads(tab)
    tab.get_by_label("Hide special tokens").check()
    note = tab.get_by_text(
        "Without [CLS], [SEP]. What is left of each row is rescaled to sum to 1."
    )
    note.wait_for()
    settled(tab, "detail")
    assert not {"[CLS]", "[SEP]"} & numbers(tab, "bank looks at").keys()
    tab.get_by_label("Rescale the rest to 1").uncheck()
    tab.get_by_text("Rows sum to less than 1.").wait_for()


def test_the_keyboard_alone_suffices(tab):
    painted_heads(tab)
    tab.locator(".cell[aria-pressed=true]").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    tab.get_by_role("heading", name="Layer 1, head 2").wait_for()
    tab.keyboard.press("Tab")  # from the grid, which is one stop, to the tabs
    tab.keyboard.press("ArrowRight")
    tab.get_by_role("tab", name="Heat map", selected=True).wait_for()
    tab.get_by_role("tab", name="Heat map").press("Tab")
    tab.keyboard.press("ArrowRight")
    tab.get_by_text(re.compile(r"^bank looks at \.: ")).wait_for()
    tab.locator("#tokens [aria-pressed=true]").focus()
    tab.keyboard.press("ArrowLeft")
    tab.locator("#tokens [aria-pressed=true]").get_by_text("river", exact=True).wait_for()


def test_pointing_at_a_token_names_what_it_looks_at(tab):
    painted_heads(tab)
    box = tab.locator("#view-lines .viewport").bounding_box()
    tab.mouse.move(box["x"] + 40, box["y"] + 12)
    tab.locator("#view-lines .readout").get_by_text(re.compile(r"^\[CLS\] looks at ")).wait_for()
    tab.mouse.move(box["x"] + box["width"] - 20, box["y"] + 12)
    tab.locator("#view-lines .readout").get_by_text(
        re.compile(r"^Tokens that look at \[CLS\]: ")
    ).wait_for()


def test_texts_are_never_markup(tab):
    tab.locator("#text").fill('<img src="x" onerror="document.title=1"> bank')
    tab.locator("#tokens button", has_text="img").wait_for()
    settled(tab, "detail")
    assert tab.locator("main img").count() == 0
    assert tab.title() == "polyhead explorer"


def test_an_empty_text_is_a_hint_and_no_failure(tab):
    painted_heads(tab)
    tab.get_by_label("Text", exact=True).fill("  ")
    status = tab.get_by_role("status")
    status.get_by_text("Type or paste one, or choose a sentence.").wait_for()
    assert status.get_by_role("button").count() == 0
    tab.get_by_label("Text", exact=True).fill(OTHER)
    painted_heads(tab)
    assert status.inner_text() == ""


def test_words_written_from_right_to_left_leave_their_numbers_where_they_are(tab):
    word = "\u05e9\u05dc\u05d5\u05dd"
    tab.get_by_label("Text", exact=True).fill(word)
    tab.locator("#tokens button", has_text=word).click()
    named = re.compile(f"looks at .*\u2068{word}\u2069 [01]")  # with both other tokens
    tab.locator("#view-lines .readout", has_text=named).wait_for()


def test_where_tokens_share_rows_the_page_says_how_many(browser, page, monkeypatch):
    monkeypatch.setattr("polyhead_explorer.api.maps._MAX_HEAD_SIZE", 6)  # rows, of 12 tokens
    with opened(browser, f"{page.address}#model=bert") as tab:
        tab.get_by_text("a group of up to 2 tokens, named by its first").wait_for()


def test_a_slow_call_is_repeated_once_when_the_server_answers(browser, page):
    slow = {"kind": "slow", "message": "no answer within 5 s", "retry_after_s": None}
    num_slow, num_asked = 1, 0

    def answer(route):
        nonlocal num_asked
        num_asked += 1
        if num_asked > num_slow:
            route.continue_()
        else:
            route.fulfill(status=504, json={"error": slow})

    with opened(browser, f"{page.address}#model=bert") as tab:
        painted_heads(tab)
        tab.route("**/api/reading", answer)
        tab.get_by_label("Text", exact=True).fill(OTHER)
        tab.locator("#tokens button", has_text="deposit").wait_for()
        assert num_asked == 2
        num_slow, num_asked = 2, 0
        tab.get_by_label("Text", exact=True).fill(f"{OTHER} bank")
        again = tab.get_by_role("status").get_by_role("button", name="Try again")
        again.wait_for()
        assert num_asked == 2
        assert "does not answer in time" in tab.get_by_role("status").inner_text()
        again.click()
        settled(tab, "detail")
        assert num_asked == 3


@pytest.mark.parametrize(("width", "height"), [(320, 640), (360, 740), (3840, 2160)])
def test_nothing_is_wider_than_the_screen(browser, page, width, height):
    with opened(browser, f"{page.address}#model=bert", width, height) as tab:
        painted_heads(tab)
        root = "document.documentElement"  # its clientWidth leaves out a scroll bar
        assert tab.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")


def test_the_river_bank_is_shown_where_it_is_all_there_is(browser):
    with (
        running_server(threads=1) as server,
        explorer(server.target) as page,
        opened(browser, page.address) as tab,
    ):
        assert painted_heads(tab).count() == 2
        tab.locator("#text").fill("Anna fishes")
        tab.get_by_text("does not know: anna, fishes").wait_for()
        tab.locator("#text").fill("the river bank")
        tab.locator(".banner").wait_for(state="detached")
        assert tab.locator("#tokens button").all_inner_texts() == ["the", "river", "bank"]


def test_a_server_that_goes_is_named_and_the_page_goes_on_when_it_is_back(browser):
    with running_server(threads=1) as server:
        port = server.port
    with explorer(f"127.0.0.1:{port}") as page, opened(browser, page.address) as tab:
        tab.get_by_text("The server cannot be reached.").wait_for()
        with running_server(threads=1, port=port):
            assert painted_heads(tab).count() == 2
            tab.locator(".banner").wait_for(state="detached")
