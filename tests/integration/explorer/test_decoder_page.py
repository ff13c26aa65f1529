"""An encoder-decoder in a real browser: the three attentions, in all views."""

from __future__ import annotations

import re
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from browser import needs_browser
from explorer_tab import opened, painted_heads, saved_arrays, saved_file, settled, token_group

pytestmark = needs_browser

TEXT = "Tom is going to fish at the river bank."
WRITTEN = "Tom is going to deposit money."
TOKENS = ["[CLS]", *TEXT.removesuffix(".").split(), ".", "[SEP]"]
DECODER_TOKENS = ["[CLS]", "[CLS]", *WRITTEN.removesuffix(".").split(), "."]
TOM = 2
"""Among the decoder's tokens."""
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def whole(client):
    ids = client.forward(WRITTEN, model="bart").token_ids
    shifted = [[2, *ids[0, :-1]]]
    return client.forward(TEXT, model="bart", decoder_token_ids=shifted, need_weights=True)


def address(page, attention="cross", **choices):
    state = {"model": "bart", "decoderText": WRITTEN, "attention": attention, **choices}
    return f"{page.address}#{urlencode(state)}"


@pytest.fixture
def tab(browser, page):
    with opened(browser, address(page, layer=1, head=2)) as found:
        painted_heads(found)
        settled(found, "detail")
        yield found


def numbers(tab, caption):
    """A table of weights, by token; several of one spelling are one."""
    rows = tab.locator("table.largest-weights").filter(has_text=caption).locator("tbody tr")
    rows.first.wait_for()
    return [tuple(row.locator("th, .number").all_inner_texts()) for row in rows.all()]


def expected_numbers(weights, names, count=8):
    order = np.argsort(-weights, kind="stable")[:count]
    return [names[place] for place in order], weights[order]


def tokens_of(tab, name):
    return token_group(tab, name).locator("button").all_inner_texts()


def test_the_three_attentions_are_chosen_and_kept_in_the_link(browser, page, whole):
    with opened(browser, f"{page.address}#model=bart&layer=1&head=2") as tab:
        assert painted_heads(tab).count() == 8
        tab.get_by_role("heading", name="Layer encoder 1, head 2").wait_for()
        tab.get_by_label("Text of the decoder").fill(WRITTEN)
        tab.get_by_role("button", name="Decoder to encoder").click()
        tab.get_by_role("heading", name="Layer cross 1, head 2").wait_for()
        assert painted_heads(tab).count() == 8
        settled(tab, "detail")
        assert tokens_of(tab, "Tokens of the decoder") == DECODER_TOKENS
        assert tokens_of(tab, "Tokens of the encoder") == TOKENS
        weights = whole.attn_weights["cross", 1][0, 2]
        for shown, (names, values) in (
            (numbers(tab, "Tom looks at"), expected_numbers(weights[TOM], TOKENS)),
            (
                numbers(tab, "Tokens that look at river"),
                expected_numbers(weights[:, TOKENS.index("river")], DECODER_TOKENS),
            ),
        ):
            assert [name for name, _ in shown] == names
            np.testing.assert_allclose([float(value) for _, value in shown], values, atol=0.006)
        token_group(tab, "Tokens of the encoder").get_by_text("fish").click()
        tab.get_by_text("Tokens that look at fish").wait_for()
        with opened(browser, tab.url) as again:
            again.get_by_role("heading", name="Layer cross 1, head 2").wait_for()
            assert again.get_by_label("Text of the decoder").input_value() == WRITTEN
            again.get_by_text("Tokens that look at fish").wait_for()
        tab.get_by_role("button", name="Decoder", exact=True).click()
        tab.get_by_role("heading", name="Layer decoder 1, head 2").wait_for()
        assert tab.locator("#tokens button:visible").all_inner_texts() == DECODER_TOKENS


def test_without_a_text_of_its_own_the_decoder_reads_the_same(browser, page):
    with opened(browser, address(page, decoderText="")) as tab:
        painted_heads(tab)
        assert tokens_of(tab, "Tokens of the decoder") == ["[CLS]", *TOKENS[:-1]]
        assert tab.get_by_label("Text of the decoder").get_attribute("placeholder") == TEXT


@pytest.mark.parametrize("model", ["bert", "gpt2", "clip"])
def test_models_without_a_decoder_beside_an_encoder_have_one_text(browser, page, model):
    with opened(browser, address(page, model=model)) as tab:
        painted_heads(tab)
        assert tab.get_by_label("Text of the decoder").is_hidden()
        assert token_group(tab, "Tokens of the encoder").count() == 0
        assert tab.locator("#tokens button:visible").all_inner_texts() == TOKENS
        assert tab.locator("#measure option").count() == 5


def test_what_has_no_text_in_its_encoder_says_why_it_is_not_shown(browser, page):
    with opened(browser, address(page)) as tab:
        painted_heads(tab)
        option = tab.locator("#model option", has_text="whisper")
        assert option.inner_text() == "whisper: its encoder takes input_features, not text"
        assert option.is_disabled()


def test_a_weight_of_the_map_is_its_row_and_its_column(tab, whole):
    tab.get_by_role("tab", name="Heat map").click()
    settled(tab, "detail")
    tab.locator("#view-map .viewport").focus()
    tab.keyboard.press("ArrowRight")  # from the chosen token's row and the chosen key's column
    weight = whole.attn_weights["cross", 1][0, 2, TOM, TOKENS.index("bank")]
    shown = tab.locator("#view-map .readout")
    shown.get_by_text(re.compile(r"^Tom looks at bank: ")).wait_for()
    assert float(shown.inner_text().split()[-1]) == pytest.approx(weight, abs=0.006)
    for _ in range(len(TOKENS)):
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowDown")
    shown.get_by_text(re.compile(r"^\. looks at \[SEP\]: ")).wait_for()


def test_lines_lead_from_one_text_to_the_other(tab):
    box = tab.locator("#view-lines .viewport").bounding_box()
    tab.mouse.click(box["x"] + box["width"] - 20, box["y"] + 12)
    tab.locator("#view-lines .readout").get_by_text(
        re.compile(r"^Tokens that look at \[CLS\]: ")
    ).wait_for()
    encoder = token_group(tab, "Tokens of the encoder")
    decoder = token_group(tab, "Tokens of the decoder")
    assert encoder.locator("[aria-pressed=true]").inner_text() == "[CLS]"
    assert decoder.locator("[aria-pressed=true]").inner_text() == "Tom"
    tab.mouse.click(box["x"] + 20, box["y"] + 12)
    tab.locator("#view-lines .readout").get_by_text(re.compile(r"^\[CLS\] looks at ")).wait_for()
    assert decoder.locator("[aria-pressed=true]").inner_text() == "[CLS]"


def test_tokens_are_hidden_in_both_texts(tab):
    tab.get_by_label("Hide special tokens").check()
    note = "Without [CLS], [CLS] among the rows and [CLS], [SEP] among the columns."
    tab.get_by_text(note).wait_for()
    settled(tab, "detail")
    assert {"[CLS]", "[SEP]"}.isdisjoint(name for name, _ in numbers(tab, "Tom looks at"))


def test_heads_are_ranked_by_what_means_something_between_two_texts(tab, whole):
    weights = np.concatenate([whole.attn_weights["cross", layer] for layer in range(2)])
    titles = tab.locator("#measure option").all_inner_texts()
    assert titles == ["the first token", "a chosen token"]
    tab.get_by_text("the next one and the same one have no meaning between decoder").wait_for()
    for measure, values in (
        ("first", weights[..., 0].mean(axis=-1)),
        ("pair", weights[:, :, TOM, TOKENS.index("river")]),
    ):
        tab.locator("#measure").select_option(measure)
        settled(tab, "ranking")
        layer, head = np.unravel_index(values.argmax(), values.shape)
        first = tab.locator("#ranking tbody tr").first
        first.get_by_text(f"Layer cross {layer}, head {head}").wait_for()
        shown = float(first.locator(".number").inner_text())
        assert shown == pytest.approx(values.max(), abs=0.006)


def test_the_steps_lead_to_the_encoders_keys(tab):
    tab.get_by_role("tab", name="Step by step").click()
    tab.locator(".steps[aria-busy=false] table").wait_for()
    assert tab.locator(".steps tbody th").all_inner_texts() == TOKENS
    tab.get_by_text("Keys and values are computed from e, the encoder's output.").wait_for()
    assert tab.locator(".steps tr.own").count() == 0


def test_the_encoder_reads_two_texts_and_the_decoder_one(tab):
    tab.get_by_role("tab", name="Compare texts").click()
    tab.get_by_text("The encoder reads the other text, and the decoder the same one.").wait_for()
    tab.get_by_text("9 of this text's 12 tokens have a partner").wait_for()
    tab.get_by_role("button", name="The chosen token").click()
    tab.get_by_text("What Tom looks at").wait_for()
    names = tab.locator(".compare-content tbody th").all_inner_texts()
    assert names[: len(TOKENS)] == TOKENS
    assert "money" in names
    tab.get_by_role("tab", name="A word's path").click()
    tab.get_by_label("and in the other text").check()
    tab.get_by_text("The other path is of the same token, with the other text").wait_for()
    tab.locator("#plane").select_option("anchors")
    tab.get_by_text("The word is a text that the decoder reads alone").wait_for()
    tab.locator(".path-content[aria-busy=false]").wait_for()


def test_numbers_and_pictures_name_both_texts(tab, whole, tmp_path):
    saved = saved_arrays(tab, tmp_path)
    np.testing.assert_allclose(saved["weights"], whole.attn_weights["cross", 1][0, 2], **ROUNDING)
    assert saved["weights_rows"].tolist() == DECODER_TOKENS
    assert saved["weights_columns"].tolist() == TOKENS
    drawing = ET.parse(saved_file(tab, "Picture, SVG", tmp_path)).getroot()
    texts = [element.text for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text.startswith(f"bart, layer cross 1, head 2: {WRITTEN} | Tom") for text in texts)


def test_a_saved_page_has_all_three(browser, tab, tmp_path):
    path = saved_file(tab, "Page that works offline", tmp_path)
    with opened(browser, path.as_uri(), offline=True) as offline:
        assert offline.get_by_label("Text of the decoder").get_attribute("readonly") is not None
        found = [
            [shown_of(each, attention, is_hidden, tmp_path) for each in (tab, offline)]
            for attention in ("Decoder to encoder", "Decoder", "Encoder")
            for is_hidden in (True, False)
        ]
    assert len({str(rows) for _, (_, rows) in found}) == 6
    for (weights, rows), (saved_weights, saved_rows) in found:
        np.testing.assert_allclose(saved_weights, weights, rtol=2e-3, atol=2e-5)
        names, values = zip(*rows, strict=True)
        saved_names, saved_values = zip(*saved_rows, strict=True)
        assert saved_names == names
        np.testing.assert_allclose(
            np.array(saved_values, float), np.array(values, float), atol=0.011
        )


def shown_of(tab, attention, is_hidden, folder):
    """The weights of the head that is shown, and the ranking of all."""
    tab.get_by_role("button", name=attention, exact=True).click()
    name = {"Decoder to encoder": "cross"}.get(attention, attention.lower())
    tab.get_by_role("heading", name=f"Layer {name} 1, head 2").wait_for()
    tab.get_by_label("Hide special tokens").set_checked(is_hidden)
    note = tab.get_by_text("What is left of each row is rescaled to sum to 1.")
    note.wait_for(state="visible" if is_hidden else "detached")
    settled(tab, "detail")
    settled(tab, "ranking")
    rows = tab.locator("#ranking tbody tr").all()
    ranking = [tuple(row.locator("button, .number").all_inner_texts()) for row in rows]
    return saved_arrays(tab, folder)["weights"], ranking
