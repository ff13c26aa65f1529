"""A picture's scale, sizes and fonts are chosen by what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead._viz.fonts import families
from polyhead._viz.scale import choose_scale
from polyhead._viz.sizes import MAX_SIDE_PX, choose_sizes, pool
from polyhead._viz.special import is_special

RNG = np.random.default_rng(0)


def test_weights_of_about_the_same_size_have_a_linear_scale():
    scale = choose_scale(np.array([0.2, 0.3, 0.25, 0.25, 0.0, np.nan, -np.inf]))
    assert (scale.low, scale.high, scale.exponent, scale.is_diverging) == (0, 0.3, 1, False)
    assert scale.describe() == ""


@pytest.mark.parametrize(
    ("small", "said"), [(0.1, "power 1/2"), (0.04, "power 1/3"), (0.012, "power 1/4")]
)
def test_small_weights_are_made_visible_by_a_power(small, said):
    scale = choose_scale(np.array([[0.9] + [small] * 9] * 10))
    assert scale.describe() == said
    assert scale.shares(np.array([small]))[0] >= 0.3


def test_a_few_weights_far_above_all_others_share_the_last_colour():
    weights = np.full((300, 300), 0.0005)
    weights[:150] += 0.01 * RNG.random((150, 300))
    weights[::3, 0] = 0.95
    weights /= 20
    scale = choose_scale(weights)
    assert scale.high < 0.001
    assert scale.describe().endswith(f"ends at {scale.high:.2g} (percentile 99.5)")
    assert scale.shares(np.array([0.04]))[0] == 1


def test_scores_diverge_around_0():
    scores = np.array([-3.0, 1.0, 2.0, -np.inf])
    scale = choose_scale(scores)
    np.testing.assert_allclose(scale.shares(scores[:3]), [0, 2 / 3, 5 / 6])
    assert (scale.low, scale.high) == (-3, 3)
    assert choose_scale(np.array([1.0, 2.0]), is_diverging=True).low == -2
    assert choose_scale(np.append(scores, [90] + [1] * 999)).describe().startswith("ends at ")


@pytest.mark.parametrize("numbers", [[0.0, 0.0], [np.nan], [-np.inf, np.nan]])
def test_numbers_that_tell_nothing_have_a_scale(numbers):
    assert choose_scale(np.array(numbers)).shares(np.array([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("is_diverging", [False, True])
def test_shares_and_numbers_are_each_other_backwards(is_diverging):
    scale = choose_scale(np.array([[0.9] + [0.04] * 9] * 10), is_diverging=is_diverging)
    shares = np.linspace(0, 1, 21)
    np.testing.assert_allclose(scale.shares(scale.numbers(shares)), shares, atol=1e-12)


def test_a_legend_has_round_numbers_that_do_not_overlap():
    scale = choose_scale(np.array([0.87, 0.03, 0.03, 0.03, 0.03]))
    ticks = scale.ticks(distance=0.1)
    assert ticks[0] == 0
    assert {0.1, 0.5} <= set(ticks)
    assert np.diff(scale.shares(np.array(ticks))).min() >= 0.1
    diverging = choose_scale(np.array([-4.0, 1.0])).ticks()
    assert diverging == [-tick for tick in diverging[::-1]]


@pytest.mark.parametrize(
    ("num_maps", "num_queries", "num_keys"),
    [
        *((1, 1, 1), (1, 12, 12), (12, 12, 12), (12, 179, 179), (1, 512, 512), (12, 512, 512)),
        *((128, 500, 500), (12, 3, 512), (12, 512, 3), (1, 9000, 9000)),
    ],
)
def test_maps_fit_the_picture_and_cells_are_seen(num_maps, num_queries, num_keys):
    room = (MAX_SIDE_PX - 300, MAX_SIDE_PX - 300)
    sizes = choose_sizes(num_maps, num_queries, num_keys, room=room, gap=(26, 60))
    assert sizes.columns * sizes.rows >= num_maps
    cells = (-(-num_keys // sizes.pooled_keys), -(-num_queries // sizes.pooled_queries))
    assert sizes.columns * (cells[0] * sizes.cell_width + 26) <= room[0]
    assert sizes.rows * (cells[1] * sizes.cell_height + 60) <= room[1]
    assert min(sizes.cell_width, sizes.cell_height) >= 3
    assert bool(sizes.pooling) == (cells != (num_keys, num_queries))
    if num_queries == num_keys:
        assert sizes.cell_width == sizes.cell_height


def test_heads_that_fit_are_not_pooled():
    room = (3700, 3700)
    assert choose_sizes(12, 179, 179, room=room, gap=(26, 60)).pooling == ""
    pooled = choose_sizes(12, 512, 512, room=room, gap=(26, 60))
    assert pooled.pooling == "each cell: the largest of 2 x 2"


def test_pooling_keeps_the_largest_and_blank_cells():
    weights = np.array([[0.1, 0.2, np.nan], [0.4, np.nan, -np.inf], [0.3, 0.0, np.nan]])
    np.testing.assert_array_equal(pool(weights, 2, 2), [[0.4, np.nan], [0.3, np.nan]])
    np.testing.assert_array_equal(pool(weights, 1, 3)[:, 0], [0.2, 0.4, 0.3])


def test_fonts_are_looked_for_where_letters_need_them():
    available = {"DejaVu Sans", "WenQuanYi Zen Hei", "Noto Sans CJK JP", "Malgun Gothic"}
    assert families(["river", "ünïcode"], available) == []
    found = ["Noto Sans CJK JP", "WenQuanYi Zen Hei", "Malgun Gothic"]
    for text in ("河岸", "川のそば", "강가"):
        assert families(["river", text], available) == found
    assert families(["河岸"], {"DejaVu Sans"}) == []


@pytest.mark.parametrize(
    "token",
    [
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "<s>",
        "</s>",
        "<pad>",
        "<|endoftext|>",
        "<bos>",
        "<start_of_turn>",
    ],
)
def test_special_tokens_are_known_by_their_spelling(token):
    assert is_special(token)


@pytest.mark.parametrize("token", ["[UNK]", "<unk>", "bank", "[", "<", "##ing", "[1]", "<0x0A>"])
def test_tokens_of_a_text_are_not_special(token):
    assert not is_special(token)
