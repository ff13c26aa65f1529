"""What is saved: pictures, numbers, and a page that works without a server."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, saved_arrays, saved_file, settled

import polyhead

pytestmark = needs_browser

TEXT = "Tom is going to fish at the river bank."
TOKENS = ["[CLS]", *TEXT.removesuffix(".").split(), ".", "[SEP]"]
ROUNDING = {"rtol": 2e-3, "atol": 2e-5}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def tab(browser, page):
    with opened(browser, f"{page.address}#model=bert&layer=1&head=2") as found:
        painted_heads(found)
        settled(found, "detail")
        yield found


def test_numbers_are_saved_with_their_tokens(tab, client, tmp_path):
    expected = client.forward(TEXT, model="bert", need_weights=True).attn_weights[1][0, 2]
    saved = saved_arrays(tab, tmp_path)
    assert (tmp_path / "bert-layer1-head2-lines.npz").exists()
    np.testing.assert_allclose(saved["weights"], expected, rtol=1e-4, atol=1e-5)
    assert saved["weights_rows"].tolist() == saved["weights_columns"].tolist() == TOKENS
    lines = list(csv.reader(io.StringIO(saved_file(tab, "Numbers, CSV", tmp_path).read_text())))
    assert lines[0] == ["weights", *TOKENS]
    assert [line[0] for line in lines[1:]] == TOKENS
    numbers = np.array([line[1:] for line in lines[1:]], np.float32)
    np.testing.assert_allclose(numbers, expected, rtol=1e-4, atol=1e-5)


def test_each_view_saves_its_own_numbers(tab, client, tmp_path):
    stages = {
        stage: client.forward(
            TEXT,
            model="bert",
            need_weights={1: polyhead.Weights(heads=2, queries="bank", stage=stage)},
        ).attn_weights[1][0, 0, 0]
        for stage in ("scores", "masked", "weights")
    }
    tab.get_by_role("tab", name="Step by step").click()
    tab.locator("#view-steps [aria-busy=false]").wait_for()
    row = saved_arrays(tab, tmp_path)
    np.testing.assert_allclose(row["row"], list(stages.values()), rtol=1e-4, atol=1e-5)
    tab.get_by_role("tab", name="Compare texts").click()
    tab.locator(".compare-content[aria-busy=false]").wait_for()
    texts = saved_arrays(tab, tmp_path)
    assert "money" in texts["other_weights_columns"]
    assert texts["weights"].shape != (0, 0)
    tab.get_by_role("tab", name="A word's path").click()
    tab.locator(".path-content[aria-busy=false]").wait_for()
    path = saved_arrays(tab, tmp_path)
    assert path["axis_1"].shape == path["axis_2"].shape == (3, len(TOKENS))


@pytest.mark.parametrize("view", ["Lines", "Heat map"])
def test_the_picture_is_saved_with_what_it_shows(tab, tmp_path, view):
    tab.get_by_role("tab", name=view).click()
    drawing = ET.parse(saved_file(tab, "Picture, SVG", tmp_path)).getroot()
    texts = [element.text for element in drawing.iter(f"{SVG}text")]
    assert f"bert, layer 1, head 2: {TEXT}" in texts
    assert sum(text.startswith("river") for text in texts) >= 2
    shapes = {"Lines": "path", "Heat map": "image"}[view]
    assert list(drawing.iter(f"{SVG}{shapes}"))
    data = saved_file(tab, "Picture, PNG", tmp_path).read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    assert width == pytest.approx(2 * float(drawing.get("width")), abs=1)
    assert height == pytest.approx(2 * float(drawing.get("height")), abs=1)


def test_texts_are_escaped_in_saved_pictures(tab, tmp_path):
    tab.locator("#text").fill('<script>"&" bank')
    tab.locator("#tokens button", has_text="script").wait_for()
    settled(tab, "detail")
    drawing = ET.parse(saved_file(tab, "Picture, SVG", tmp_path)).getroot()
    assert any("<script>" in (element.text or "") for element in drawing.iter(f"{SVG}text"))
    assert not list(drawing.iter(f"{SVG}script"))


def test_a_saved_page_asks_for_nothing_and_shows_the_same(browser, tab, tmp_path):
    tab.get_by_label("Colours").select_option("log")
    shown = tab.locator("table.largest-weights").first.inner_text()
    path = saved_file(tab, "Page that works offline", tmp_path)
    urls = []
    with opened(browser, path.as_uri(), offline=True) as offline:
        offline.on("request", lambda request: urls.append(request.url))
        offline.reload()
        assert painted_heads(offline).count() == 8
        settled(offline, "detail")
        assert offline.locator("#scale").input_value() == "log"
        assert offline.locator("#detail h2").inner_text() == "Layer 1, head 2"
        assert offline.locator("table.largest-weights").first.inner_text() == shown
        offline.get_by_text(re.compile("It works offline")).wait_for()
        offline.get_by_label("Hide special tokens").check()
        offline.get_by_text("Without [CLS], [SEP].").wait_for()
        painted_heads(offline).nth(1).click()
        offline.get_by_role("heading", name="Layer 0, head 1").wait_for()
        settled(offline, "detail")
        saved = saved_arrays(offline, tmp_path)
    assert set(urls) <= {path.as_uri()}  # Firefox does not report a file
    tab.get_by_label("Hide special tokens").check()
    painted_heads(tab).nth(1).click()
    tab.get_by_role("heading", name="Layer 0, head 1").wait_for()
    settled(tab, "detail")
    online = saved_arrays(tab, tmp_path)
    assert saved["weights_rows"].tolist() == TOKENS[1:-1]
    np.testing.assert_allclose(saved["weights"], online["weights"], **ROUNDING)


def table_texts(tab, within):
    tab.locator(f"{within} tbody tr").first.wait_for()
    return tab.locator(f"{within} tbody tr").all_inner_texts()


def test_a_saved_page_has_the_other_views_too(browser, tab, tmp_path):
    """Views that nobody has looked at yet; hidden tokens, which no map was asked of."""
    path = saved_file(tab, "Page that works offline", tmp_path)
    with opened(browser, path.as_uri(), offline=True) as offline:
        found = []
        for shown in (tab, offline):
            painted_heads(shown)
            shown.get_by_label("Hide special tokens").check()
            painted_heads(shown)
            settled(shown, "ranking")
            ranking = table_texts(shown, "#ranking")
            shown.get_by_role("tab", name="Step by step").click()
            shown.locator("#tokens button", has_text="river").click()
            shown.get_by_text("river enters as x").wait_for()
            steps = table_texts(shown, ".steps-table")
            shown.get_by_role("tab", name="Compare texts").click()
            shown.locator(".compare-content[aria-busy=false]").wait_for()
            both = table_texts(shown, ".compare-content")
            shown.get_by_role("tab", name="A word's path").click()
            shown.locator(".path-content[aria-busy=false]").wait_for()
            found.append((ranking, steps, both, table_texts(shown, ".path-table")))
    assert found[0] == found[1]


def test_a_saved_page_says_what_was_too_large_for_it(browser, tab, tmp_path):
    def with_a_small_limit(route):
        response = route.fetch()
        route.fulfill(response=response, body=response.text().replace("24 << 20", "1400"))

    tab.route("**/page.js", with_a_small_limit)
    tab.reload()
    painted_heads(tab)
    settled(tab, "detail")
    path = saved_file(tab, "Page that works offline", tmp_path)
    with opened(browser, path.as_uri()) as offline:
        own = f"For “{TEXT}” it contains the heads of layer 1; all heads would take 1 MiB."
        offline.get_by_text(own).wait_for()
        offline.get_by_text("bank to deposit mone…” it contains no head in full").wait_for()
        assert painted_heads(offline).count() == 8
        settled(offline, "detail")
        painted_heads(offline).nth(0).click()
        offline.get_by_text("This file does not contain that.").wait_for()


def test_saving_a_page_can_be_stopped(tab):
    tab.route("**/api/weights", lambda _: None)  # never answered
    tab.get_by_role("button", name="Save", exact=True).click()
    tab.get_by_role("button", name="Page that works offline").click()
    tab.locator("#save-menu").get_by_role("button", name="Stop").click()
    tab.locator("#save-menu").get_by_text("Stopped.").wait_for()
    assert tab.locator("#save-menu progress").is_hidden()


def test_a_saved_page_forbids_all_requests(tab, tmp_path):
    text = saved_file(tab, "Page that works offline", tmp_path).read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src" not in policy
    assert "unsafe" not in policy
    assert text.count("<script type=module>") == 1


def test_the_menu_takes_the_keyboard_alone(tab):
    tab.get_by_role("button", name="Save", exact=True).press("Enter")
    tab.get_by_role("button", name="Picture, PNG").press("ArrowDown")
    tab.locator("#save-menu button:focus", has_text="SVG").wait_for()
    with tab.expect_download():
        tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    tab.locator("#save-menu").wait_for(state="hidden")
