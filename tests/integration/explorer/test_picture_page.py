"""Pictures on the page, in a real browser."""

from __future__ import annotations

import re
import struct
import zlib

import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, settled

pytestmark = needs_browser


def png(colour):
    """A picture of 6 x 4 pixels of one colour."""
    row = b"\0" + bytes(colour) * 6
    chunks = [
        (b"IHDR", struct.pack(">2I5B", 6, 4, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * 4)),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def picture_file(data, name="red.png"):
    return {"name": name, "mimeType": "image/png", "buffer": data}


@pytest.fixture
def tab(browser, page):
    with opened(browser, f"{page.address}#model=vit&layer=1&head=2") as found:
        painted_heads(found)
        settled(found, "detail")
        yield found


def choose(tab, file):
    """Choose a file, and wait until its weights are shown."""
    with tab.expect_response("**/api/head") as answered:
        tab.locator("input[type=file]").set_input_files([file])
    answered.value.finished()
    settled(tab, "detail")


def shown_weights(tab):
    return tab.locator("table.largest-weights").first.inner_text()


def test_a_picture_is_shown_with_what_was_done_to_it(tab):
    assert tab.get_by_role("tab", name="On the picture").get_attribute("aria-selected") == "true"
    assert tab.locator("#tokens button").all_inner_texts()[:3] == ["[CLS]", "0,0", "0,1"]
    tab.get_by_text("It is resized to 32").wait_for()
    tab.get_by_text("the published defaults of vit models").wait_for()


def test_patches_are_chosen_by_the_pointer_and_by_keys(tab):
    viewport = tab.locator("#view-picture .viewport")
    box = viewport.bounding_box()
    viewport.click(position={"x": box["width"] / 2 + 4, "y": box["height"] / 2 + 4})
    tab.mouse.move(0, 0)
    readout = tab.locator("#view-picture .readout")
    readout.get_by_text(re.compile(r"^patch 2,2: patches [\d.]+, \[CLS\] ")).wait_for()
    assert tab.locator("#tokens [aria-pressed=true]").inner_text() == "2,2"
    viewport.press("ArrowUp")
    readout.get_by_text("patch 1,2").wait_for()
    viewport.press("ArrowRight")
    readout.get_by_text("patch 1,3").wait_for()
    viewport.press("ArrowRight")  # the row ends there
    viewport.press("Home")
    readout.get_by_text(re.compile(r"^\[CLS\]: patches ")).wait_for()


def test_a_file_is_read_and_a_wrong_one_is_refused(tab):
    before = shown_weights(tab)
    choose(tab, picture_file(png((255, 0, 0))))
    tab.get_by_text("red.png").wait_for()
    red = shown_weights(tab)
    assert red != before
    tab.locator("input[type=file]").set_input_files([picture_file(b"nonsense", "broken.png")])
    tab.get_by_text("The browser cannot read this file as a picture.").wait_for()
    assert shown_weights(tab) == red
    with tab.expect_response("**/api/upload"):
        tab.get_by_role("button", name="Built-in picture").click()
    tab.get_by_text("Or drop a file here.").wait_for()


def test_a_file_can_be_dropped(tab):
    handle = tab.evaluate_handle(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "blue.png", { type: "image/png" }));
          return data;
        }""",
        list(png((0, 0, 255))),
    )
    tab.dispatch_event(".drop", "drop", {"dataTransfer": handle})
    tab.get_by_text("blue.png").wait_for()


def test_a_link_and_a_saved_page_show_the_same_picture(browser, tab, tmp_path):
    choose(tab, picture_file(png((0, 200, 0))))
    expected = shown_weights(tab)
    with opened(browser, tab.url) as again:
        painted_heads(again)
        settled(again, "detail")
        again.get_by_text("The picture of the link.").wait_for()
        assert shown_weights(again) == expected
    tab.get_by_role("button", name="Save", exact=True).click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Page that works offline").click()
    path = tmp_path / "picture.html"
    download.value.save_as(path)
    with opened(browser, path.as_uri(), 360, offline=True) as offline:
        painted_heads(offline)
        settled(offline, "detail")
        assert shown_weights(offline) == expected
        assert offline.evaluate("document.documentElement.scrollWidth") <= 360
        offline.get_by_text("It is resized to 32").wait_for()


def test_models_of_both_read_text_until_a_picture_is_wanted(browser, page):
    with opened(browser, f"{page.address}#model=clip") as tab:
        painted_heads(tab)
        assert tab.get_by_role("tab", name="On the picture").is_hidden()
        tab.get_by_label("Read a picture, not the text").check()
        tab.get_by_role("tab", name="On the picture").wait_for()
        settled(tab, "detail")
        assert tab.locator("#detail h2").inner_text() == "Layer vision 0, head 0"
        assert tab.locator("#text").is_hidden()


def test_a_link_whose_picture_is_gone_says_so(browser, page):
    with opened(browser, f"{page.address}#model=vit&image={'0' * 64}") as tab:
        tab.get_by_text(
            "the explorer does not have the picture any more: choose it again"
        ).wait_for()
        tab.get_by_role("button", name="Built-in picture").click()
        painted_heads(tab)
        settled(tab, "detail")
        tab.locator(".banner").wait_for(state="detached")
