"""Results in notebooks: tables, and the explorer's page inside a frame."""

from __future__ import annotations

import re
import sys
from html import unescape

import pytest
from browser import needs_browser
from explorer_tab import opened, token_group

import polyhead
from polyhead_explorer import notebook
from polyhead_models.river_bank import embed, tokenize

TEXT = "Tom is going to fish at the river bank."
MARKUP = "<img src=x onerror=alert(1)> & bank"


@pytest.fixture(scope="module")
def whole(client):
    return client.forward([TEXT, MARKUP], model="bert", need_weights=True, need_hidden_states=1)


def test_models_are_a_list_and_a_table(client):
    models = client.models()
    assert isinstance(models, list)
    table = models._repr_html_()
    assert table.count("<tr>") == 1 + len(models)
    assert "<td>encoder: 2 layers of 4 heads, width 64</td>" in table
    assert "<td>one block of 2 heads, width 6</td>" in table


def test_results_are_tables_without_markup_of_texts(client, whole):
    table = whole._repr_html_()
    assert "<td>&lt;img src=x onerror=alert(1)&gt; &amp; bank</td>" in table
    assert '<th scope="row">attn_weights[0]</th><td>float32 (2, 4, ' in table
    assert (
        "<script" not in table + client.attend(embed(["river"]), model="river-bank")._repr_html_()
    )


@needs_browser
def test_a_result_is_explored_inside_a_notebook(browser, whole, tmp_path):
    page = tmp_path / "notebook.html"
    page.write_text(f"<!doctype html><body>{whole.explore()._repr_html_()}")
    with opened(browser, page.as_uri(), height=1200, offline=True) as tab:
        frame = tab.frame_locator("iframe")
        frame.locator("#overview[aria-busy=false]").wait_for()
        assert frame.locator(".cell:not(.waiting)").count() == 8
        frame.locator(".cell").nth(6).click()
        frame.get_by_role("heading", name="Layer 1, head 2").wait_for()
        frame.locator("#detail[aria-busy=false]").wait_for()
        shown = frame.locator("table.largest-weights").first
        rows = [
            row.locator("th, .number").all_inner_texts() for row in shown.locator("tbody tr").all()
        ]
        expected = dict(whole.top("bank", layer=1, head=2, k=8))
        for token, weight in rows:
            name = "tom" if token == "Tom" else token
            assert float(weight) == pytest.approx(expected[name], abs=0.006)
        frame.get_by_role("button", name=re.compile("Dark|Light")).click()  # keeps nothing, works


@needs_browser
def test_texts_are_never_markup_in_a_saved_page(browser, whole, tmp_path):
    path = tmp_path / "attention.html"
    whole.explore(batch=1).save(path)
    with opened(browser, path.as_uri(), 360, offline=True) as tab:
        tab.locator("#tokens button", has_text="onerror").wait_for()
        assert tab.locator("main img").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_blocks_result_is_explored_with_its_words(client):
    words = tokenize(TEXT)
    result = client.attend(embed(words), model="river-bank", need_weights=True)
    assert "<iframe" in result.explore(words)._repr_html_()
    assert result.explore(height=300)._repr_html_().count("height: 300px") == 1
    assert len(result.explore().html) < 400_000


@needs_browser
def test_an_encoder_and_a_decoder_are_one_page(browser, client, tmp_path):
    result = client.forward(TEXT, model="bart", need_weights=True, decoder_token_ids=[[2, 3, 4]])
    path = tmp_path / "cross.html"
    result.explore(stack="cross", decoder_tokens=["<s>", "Ufer", "Geld"]).save(path)
    with opened(browser, path.as_uri(), offline=True) as tab:
        tab.locator("#detail[aria-busy=false]").wait_for()
        tab.get_by_role("heading", name="Layer cross 0, head 0").wait_for()
        decoder = token_group(tab, "Tokens of the decoder")
        assert decoder.locator("button").all_inner_texts() == ["<s>", "Ufer", "Geld"]
        decoder.get_by_text("Ufer").click()
        row = (
            tab.locator("table.largest-weights")
            .filter(has_text="Ufer looks at")
            .locator("tbody tr")
            .first
        )
        largest = result.attn_weights["cross", 0][0, 0, 1].max()
        assert float(row.locator(".number").inner_text()) == pytest.approx(largest, abs=0.006)
        for name in ("Decoder", "Encoder"):
            tab.get_by_role("button", name=name, exact=True).click()
            tab.get_by_role("heading", name=f"Layer {name.lower()} 0, head 0").wait_for()
            tab.locator("#overview[aria-busy=false]").wait_for()
            assert tab.locator(".cell:not(.waiting)").count() == 8


@needs_browser
def test_a_second_text_is_shown_as_on_the_page(browser, client, tmp_path):
    second = "Tom is at the river bank."
    path = tmp_path / "pair.html"
    pair = client.forward(TEXT, text_pair=second, model="bert", need_weights=True)
    pair.explore().save(path)
    with opened(browser, path.as_uri(), offline=True) as tab:
        tab.locator("#detail[aria-busy=false]").wait_for()
        assert tab.get_by_label("Second text", exact=True).input_value() == second
        tokens = token_group(tab, "Tokens of the second text").locator("button")
        assert tokens.all_inner_texts() == [*second[:-1].split(), ".", "[SEP]"]
        tokens.nth(5).click()
        tab.get_by_text("bank² looks at", exact=True).first.wait_for()
        assert tab.get_by_role("button", name="Remove the second text").is_hidden()


def test_a_stack_of_several_is_shown_first_and_what_is_not_there_is_refused(client):
    wanted = {("cross", 1): True}
    cross = client.forward(TEXT, model="bart", need_weights=wanted, decoder_token_ids=[[2, 3, 4]])
    assert "attention=cross" in unescape(cross.explore().html)
    with pytest.raises(polyhead.InvalidArgumentError, match="one of 'cross'; got 'decoder'"):
        cross.explore(stack="decoder")
    with pytest.raises(polyhead.InvalidArgumentError, match="expected 3 tokens; got 2"):
        cross.explore(decoder_tokens=["a", "b"])
    encoder = client.forward(TEXT, model="bart", need_weights=True)
    with pytest.raises(polyhead.InvalidArgumentError, match="no weights of a decoder"):
        encoder.explore(decoder_tokens=["a"])


def test_what_cannot_be_explored_is_said(client, whole):
    some = client.forward(TEXT, model="bert", need_weights={0: polyhead.Weights(heads=1)})
    with pytest.raises(polyhead.InvalidArgumentError, match="expected all of them"):
        some.explore()
    with pytest.raises(polyhead.InvalidArgumentError, match="below 2 sequences; got 2"):
        whole.explore(batch=2)
    with pytest.raises(polyhead.InvalidArgumentError, match="no attention weights"):
        client.forward(TEXT, model="bert").explore()
    attended = client.attend(embed(["river", "bank"]), model="river-bank", need_weights=True)
    with pytest.raises(polyhead.InvalidArgumentError, match="expected 2 tokens; got 1"):
        attended.explore(["river"])
    with pytest.raises(polyhead.InvalidArgumentError, match="no attention weights"):
        client.attend(embed(["river"]), model="river-bank").explore()
    row = client.attend(
        embed(["river"]), model="river-bank", need_weights=polyhead.Weights(top_k=1)
    )
    with pytest.raises(polyhead.InvalidArgumentError, match="all rows and heads"):
        row.explore()


def test_layers_that_are_too_large_are_left_out_and_named(whole, monkeypatch):
    monkeypatch.setattr(notebook, "_MAX_BYTES", 2 * 4 * 13 * 13 + 1)
    assert "Layers 1 are left out" in unescape(whole.explore().html)
    monkeypatch.setattr(notebook, "_MAX_BYTES", 100)
    with pytest.raises(polyhead.InvalidArgumentError, match="expected a shorter text"):
        whole.explore()


def test_a_client_without_the_explorer_says_what_to_install(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "polyhead_explorer.notebook", None)
    with pytest.raises(polyhead.MissingExtraError, match=r"pip install 'polyhead\[explore\]'"):
        whole.explore()
