"""What pictures of results show: titles, bars, hidden tokens, scales, sizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from polyhead import AttentionResult, InvalidArgumentError, Weights, viz
from polyhead.results import pictures
from polyhead.types import Execution

TOKENS = ["[CLS]", "the", "river", "bank", "the", "[SEP]"]
EXECUTION = Execution(
    model="minilm",
    model_version=1,
    provider="p",
    kernel="explicit",
    queue_ms=0,
    compute_ms=0,
    batch_size=1,
)


def make(weights, *, top_keys=None, **selection):
    """A result of self-attention over the six tokens. ``weights``: (heads, queries, keys)."""
    return AttentionResult(
        output=None,
        attn_weights=np.asarray(weights, np.float32)[None],
        top_keys=None if top_keys is None else np.asarray(top_keys, np.int32)[None],
        selection=Weights(**selection),
        q_seq_len=6,
        kv_seq_len=6,
        request_id="",
        execution=EXECUTION,
    )


def softmax(num_heads=2, num_queries=6):
    scores = np.random.default_rng(1).standard_normal((num_heads, num_queries, 6))
    weights = np.exp(scores)
    return weights / weights.sum(axis=2, keepdims=True)


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_a_picture_states_model_head_and_text():
    figure = make(softmax()).plot(TOKENS, head=1)
    assert figure.get_suptitle() == "minilm, head 1"
    assert "“[CLS] the river bank the [SEP]”" in texts(figure)
    look = pictures.Look(hide_special=False, scale="shared")
    figure = pictures.draw_attention(
        make(softmax()), TOKENS, look, head=None, batch=0, key_tokens=None, layer=("cross", 3)
    )
    assert figure.get_suptitle() == "minilm, cross layer 3"
    figure = viz.draw_heat_maps(softmax(), TOKENS, TOKENS, title="m", text="a long text " * 50)
    [text] = [text for text in texts(figure) if text.startswith("“")]
    assert text.startswith("“a long text a long text")
    assert text.endswith("…”")


def test_hiding_special_tokens_does_not_change_other_weights():
    weights = softmax()
    figure = make(weights).plot(TOKENS, hide_special=True)
    [image] = figure.axes[1].images
    np.testing.assert_allclose(image.get_array(), weights[1, 1:5, 1:5], rtol=1e-6)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == TOKENS[1:5]
    assert "special tokens are hidden; the weights are as they were" in texts(figure)


def test_nothing_to_show_without_special_tokens_is_refused():
    with pytest.raises(InvalidArgumentError, match="hide_special: expected `tokens` too"):
        make(softmax()).plot(hide_special=True)
    result = make(softmax(num_queries=1), queries=(0,))
    with pytest.raises(InvalidArgumentError, match="hide_special: all queries of these weights"):
        result.plot(TOKENS, hide_special=True)


def test_heads_may_have_scales_of_their_own():
    weights = softmax()
    weights[1] /= 10
    own, shared = (make(weights).plot(TOKENS, scale=scale) for scale in ("head", "shared"))
    for figure, expected in ((own, 1.0), (shared, weights[1].max())):
        [image] = figure.axes[1].images
        assert image.get_array().max() == pytest.approx(expected)
    assert own.axes[1].get_title() == f"head 1: up to {weights[1].max():.2g}"
    assert own.axes[-1].get_ylabel().startswith("share of the map's largest attention weight")
    numbers = sorted(float(text.get_text()) for text in own.axes[1].texts)  # the weights
    np.testing.assert_allclose(numbers, np.sort(weights[1], axis=None), atol=0.0051)
    with pytest.raises(InvalidArgumentError, match="scale: expected 'shared' or 'head'; got 'log'"):
        make(weights).plot(TOKENS, scale="log")


@pytest.mark.parametrize("stage", ["scores", "masked"])
def test_stages_before_softmax_have_0_in_the_middle(stage):
    figure = make(np.full((1, 6, 6), 2.5), stage=stage).plot(TOKENS)
    [image] = figure.axes[0].images
    assert (image.norm.vmin, image.norm.vmax) == (-2.5, 2.5)


def bars(axes):
    labels = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(labels, (bar.get_width() for bar in axes.patches), strict=True))


def test_one_row_is_drawn_as_bars_by_rank():
    weights = [[[0.5, 0.02, 0.3, 0.07, 0.1, 0.01]]]
    figure = make(weights, queries=(3,)).plot(TOKENS)
    [axes] = figure.axes
    assert axes.get_title(loc="left") == "head 0: bank"
    expected = {"[CLS]": 0.5, "river": 0.3, "the (4)": 0.1, "bank": 0.07}
    expected |= {"the (1)": 0.02, "[SEP]": 0.01}
    drawn = bars(axes)
    assert list(drawn) == list(expected)
    np.testing.assert_allclose(list(drawn.values()), list(expected.values()), rtol=1e-6)
    assert [text.get_text() for text in axes.texts][:2] == ["0.50", "0.30"]


def test_a_row_without_a_token_is_named_by_its_number():
    figure = viz.draw_bars(np.full((1, 1, 2), 0.5), ["7"], ["a", "b"], titles=["head 0"])
    assert figure.axes[0].get_title(loc="left") == "head 0: query 7"


def test_the_keys_without_a_bar_are_summed_up():
    weights = np.full((12, 1, 40), 1 / 40)
    figure = viz.draw_bars(weights, ["q"], [f"k{n}" for n in range(40)], has_rest=True)
    assert len(figure.axes) == 12
    assert [len(axes.patches) for axes in figure.axes] == [6] * 12
    assert "34 other keys: 0.85 together" in [text.get_text() for text in figure.axes[0].texts]


def test_bars_are_limited_in_number_and_size():
    words = ["委員会" * 6] * 9
    figure = viz.draw_bars(np.full((24, 1, 9), 0.1), ["q"], words, text="t")
    assert max(figure.get_size_inches() * figure.dpi) <= 4000
    assert viz.draw_bars(np.full((1, 1, 2), np.nan), ["q"], ["a", "b"]).axes
    with pytest.raises(InvalidArgumentError, match=r"at most 24 rows of weights; got \(5, 5\)"):
        viz.draw_bars(np.full((5, 5, 2), 0.1), ["q"] * 5, ["a", "b"])


def test_rows_of_which_only_the_largest_are_known_are_bars():
    result = make([[[0.7, 0.2], [0.5, 0.4]]], top_keys=[[[2, 0], [1, 3]]], queries=(1, 3), top_k=2)
    first, second = result.plot(TOKENS).axes
    assert list(bars(first)) == ["river", "[CLS]"]
    assert list(bars(second)) == ["the", "bank"]
    many = make(np.full((5, 6, 1), 0.5), top_keys=np.zeros((5, 6, 1)), top_k=1).plot(TOKENS)
    assert many.axes[0].images  # 30 charts would be too many


def test_bars_of_scores_go_both_ways_and_masked_keys_have_none():
    result = make([[[-2.0, 1.5, -np.inf, -np.inf, 0.5, -np.inf]]], queries=(3,), stage="masked")
    [axes] = result.plot(TOKENS).axes
    assert list(bars(axes).values()) == [1.5, 0.5, -2.0]
    assert axes.get_xlim() == (-2, 2)


@pytest.mark.parametrize(("num_heads", "length"), [(12, 179), (1, 512), (12, 512)])
def test_pictures_of_long_texts_have_few_pixels(num_heads, length):
    weights = np.full((num_heads, length, length), 1 / length, np.float32)
    words = ["committee"] * length
    figure = viz.draw_heat_maps(weights, words, words, title="m", text="t " * 500)
    width, height = figure.get_size_inches() * figure.dpi
    assert max(width, height) <= 4000
    assert not figure.axes[0].texts
    pooled = [text for text in texts(figure) if text.startswith("each cell: the largest of")]
    assert bool(pooled) == (num_heads * length > 6000)


def test_grids_of_many_layers_have_few_pixels():
    maps = {f"head {n}": np.eye(300) for n in range(32)}
    figure = viz.draw_layer_grid({f"layer {n}": maps for n in range(40)}, title="m", text="t")
    width, height = figure.get_size_inches() * figure.dpi
    assert max(width, height) <= 4000
    [pooled] = [text for text in texts(figure) if text.startswith("each cell")]
    assert pooled == "each cell: the largest of 13 x 13"
    assert figure.axes[0].images[0].get_array().shape == (24, 24)


def test_cells_have_numbers_where_these_can_be_read():
    def numbered(num_heads, length, factor=1.0):
        weights = softmax(num_heads, length)[:, :, :1].repeat(length, axis=2) * factor
        words = ["w"] * length
        return bool(viz.draw_heat_maps(weights, words, words).axes[0].texts)

    assert numbered(1, 12)
    assert not numbered(1, 60)
    assert not numbered(12, 12)
    assert numbered(1, 24)
    assert not numbered(1, 24, factor=-1e7)  # numbers of eight digits are wider than cells


def test_letters_without_a_font_are_drawn_without_warnings():
    words = ["河岸", "강가", "ภาษา"]
    figure = viz.draw_heat_maps(np.full((1, 3, 3), 0.3), words, words, text="河岸で")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    assert imread(file).shape[0] > 200
