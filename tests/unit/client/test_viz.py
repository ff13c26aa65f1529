"""Heat maps are readable with and without colours, wide and narrow, in any script."""

from __future__ import annotations

import importlib.util
import io
import re

import numpy as np
import pytest
from matplotlib.image import imread
from rich.cells import cell_len
from rich.console import Console

from polyhead import InvalidArgumentError, MissingExtraError, viz
from polyhead._viz.colours import COLOURS, DIVERGING_COLOURS

WORDS = ["Tom", "is", "going", "to", "fish"]
WEIGHTS = np.array([[0.9, 0.1, 0, 0, 0], *([[0.2] * 5] * 3), [0.0] * 5])


def draw(weights=WEIGHTS, queries=WORDS, keys=WORDS, *, width=80, colours=None, title=""):
    file = io.StringIO()
    console = Console(
        file=file, width=width, color_system=colours, force_terminal=True, legacy_windows=False
    )
    viz.print_heat_map(weights, queries, keys, title=title, console=console)
    return file.getvalue()


def without_styles(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_numbers_and_words_are_printed_without_colours():
    lines = without_styles(draw(title="Head 0")).splitlines()
    assert lines[0] == "Head 0"
    assert lines[1].split() == WORDS
    for word, row, line in zip(WORDS, WEIGHTS, lines[2:], strict=False):
        assert line.split() == [word, *(f"{value:.2f}" for value in row)]


def test_columns_are_aligned_with_their_words():
    lines = without_styles(draw()).splitlines()
    for word, column in zip(WORDS, range(5), strict=True):
        middle = lines[0].index(word) + len(word) // 2
        number = [m for m in range(len(lines[1])) if lines[1][m] == "."][column]
        assert abs(middle - number) <= 2


def test_colours_run_from_dark_to_light():
    first = draw(colours="truecolor").splitlines()[1]
    backgrounds = [
        tuple(map(int, part.split("m")[0].split(";")[-3:]))
        for part in first.split("\x1b[")
        if ";48;2;" in part
    ]
    lightness = [sum(colour) for colour in backgrounds]
    assert len(lightness) >= 3
    assert lightness[0] > 1.5 * lightness[1] > 1.5 * lightness[2]


def test_the_largest_of_a_row_is_bold():
    row = draw(colours="truecolor").splitlines()[1]
    bold = [part for part in row.split("\x1b[") if part.startswith("1;")]
    assert [part.split("m")[1].strip() for part in bold] == ["0.90"]


@pytest.mark.parametrize("width", range(20, 60, 7))
def test_no_line_is_wider_than_the_terminal(width):
    lines = without_styles(draw(width=width, title="Head 0")).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width


def test_words_wider_than_their_columns_are_printed_vertically():
    words = ["understanding", "is", "a", "beginning", "."]
    lines = without_styles(draw(queries=list("abcde"), keys=words, width=40)).splitlines()
    heading = lines[: len("understanding")]
    columns = ["".join(letters).strip() for letters in zip(*heading, strict=False)]
    assert [column for column in columns if column] == words


def crowd(size=100):
    """A map whose largest weights are of key 70 and of every seventh query."""
    words = [f"w{index}" for index in range(size)]
    weights = np.full((size, size), 0.001)
    weights[::7, 70] = 0.9
    weights[:, 30:40] = 0.05
    return weights, words


def test_a_map_that_does_not_fit_keeps_the_largest_weights_in_their_order():
    weights, words = crowd()
    lines = without_styles(draw(weights, words, words, width=60)).splitlines()
    assert "".join(lines[-2:]) == (
        "shown with numbers: 48 of 100 queries and 11 of 100 keys, those with the largest weights"
    )
    assert lines[0].split() == [*(f"w{key}" for key in range(30, 40)), "w70"]
    queries = [line.split()[0] for line in lines[1:49]]
    assert queries == sorted(queries, key=lambda query: int(query[1:]))
    assert {f"w{query}" for query in range(0, 100, 7)} < set(queries)


def test_an_overview_of_the_whole_map_comes_before_a_cropped_one():
    weights, words = crowd()
    text = draw(weights, words, words, width=80, colours="truecolor")
    lines = without_styles(text).splitlines()
    assert lines[0] == (
        "100 queries down, 100 keys across; a pixel is the largest of 2 x 2 weights"
    )
    assert lines[1:26] == ["▀" * 50] * 25
    light = "48;2;{};{};{}m".format(*(int(COLOURS[-1][i : i + 2], 16) for i in (1, 3, 5)))
    assert light.replace("48", "38", 1).removesuffix("m") in text.splitlines()[1]
    assert "▀" not in draw(colours="truecolor")
    assert "▀" not in draw(weights, words, words, width=60)  # without colours


def test_rows_are_chosen_by_the_keys_that_are_shown():
    size = 100
    weights = np.full((size, size), 0.001)
    weights[np.arange(60), 40 + np.arange(60)] = 0.8  # most of these keys do not fit
    weights[60:, 0] = 0.9
    words = [f"w{index}" for index in range(size)]
    lines = without_styles(draw(weights, words, words, width=60)).splitlines()
    assert lines[0].split() == ["w0", *(f"w{key}" for key in range(40, 50))]
    assert all("0.90" in line or "0.80" in line for line in lines[1:49])


def test_what_is_said_of_the_colours_is_not_cut():
    weights, words = crowd()
    weights[0, 0] = 1e4  # ends the scale at a percentile, which takes long to say
    text = without_styles(draw(weights, words, words, width=60, colours="truecolor"))
    assert "(percentile 99.5)" in text
    assert max(map(len, text.splitlines())) <= 60


def test_what_a_mask_leaves_out_is_blank_in_an_overview():
    weights = np.where(np.tril(np.ones((60, 60), bool)), 1.0, -np.inf)
    words = [""] * 60
    lines = without_styles(draw(weights, words, words, colours="truecolor")).splitlines()
    assert lines[1].rstrip() == "▀▄"
    assert lines[30].rstrip() == "▀" * 59 + "▄"


def test_a_map_that_fits_has_no_note():
    assert "shown with numbers" not in draw()


def test_labels_are_single_printable_words():
    words = ["a\nb", "\t", "[bold]x[/]", "x" * 50, "河岸"]
    lines = without_styles(draw(queries=words)).splitlines()
    labels = [line[: line.index("0.")].strip() for line in lines[1:6]]
    assert labels[0] == "a b"
    assert labels[1] == r"'\t'"
    assert labels[2] == "[bold]x[/]"
    assert labels[3] == "x" * 13 + "…"
    assert labels[4] == "河岸"


def test_wide_letters_keep_columns_aligned():
    lines = without_styles(draw(queries=["河岸", "b", "c", "d", "e"])).splitlines()
    assert len({cell_len(line) for line in lines[1:6]}) == 1


def test_an_ascii_terminal_gets_ascii():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, width=80)
    viz.print_heat_map(WEIGHTS, ["é" * 20, *WORDS[1:]], WORDS, console=console)
    file.flush()
    assert b"0.90" in raw.getvalue()


@pytest.mark.parametrize("value", [0.0, 1.0, -12.5, -np.inf])
def test_any_number_can_be_drawn(value):
    text = without_styles(draw(np.full((1, 1), value), ["a"], ["b"], colours="truecolor"))
    assert f"{value:.2f}" in text


def test_cells_of_nan_are_left_empty():
    weights = np.array([[0.25, np.nan], [np.nan, np.nan]])
    lines = without_styles(draw(weights, ["a", "b"], ["c", "d"])).splitlines()
    assert lines[1].split() == ["a", "0.25"]
    assert lines[2].split() == ["b"]


def test_scores_have_the_middle_colour_at_0():
    scores = np.array([[-12.25, 0.0, 3.5], [-np.inf, -12.25, -1.0]])
    text = draw(scores, ["a", "b"], ["x", "y", "z"], colours="truecolor")
    lines = without_styles(text).splitlines()
    assert lines[1].split() == ["a", "-12.25", "0.00", "3.50"]
    assert lines[2].split() == ["b", "-inf", "-12.25", "-1.00"]
    assert lines[3].split()[4] == "-12.25"
    assert lines[3].split()[-1] == "12.25"
    lowest, middle = (f"48;2;{int(DIVERGING_COLOURS[n][1:3], 16)};" for n in (0, 4))
    first, second = text.splitlines()[1:3]
    assert first.index(lowest) < first.index(middle)
    assert "48;" not in second[: second.index("-inf")]


def test_figures_show_themselves_in_notebooks():
    figure = viz.draw_heat_maps(np.full((2, 5, 5), 0.2), ["河\n"] * 5, WORDS, label="score")
    assert figure._repr_png_().startswith(b"\x89PNG")  # what IPython looks for
    assert figure.axes[-1].get_ylabel() == "score"


def test_cells_without_a_number_are_left_white():
    weights = np.array([[[0.5, np.nan], [-np.inf, 0.25]]])
    panel = viz.draw_heat_maps(weights, ["a", "b"], ["c", "d"]).axes[0]
    [image] = panel.images
    np.testing.assert_array_equal(image.get_array().mask, [[False, True], [True, False]])
    assert sorted(text.get_text() for text in panel.texts) == [".25", ".50"]


@pytest.mark.parametrize("shape", [(5,), (4, 5), (5, 4), (1, 5, 5)])
def test_the_shape_must_match_the_words(shape):
    with pytest.raises(InvalidArgumentError, match=r"expected \(queries, keys\) = \(5, 5\)"):
        draw(np.zeros(shape))


@pytest.mark.parametrize(
    ("num_heads", "q_seq_len", "kv_seq_len"), [(1, 1, 1), (3, 5, 5), (5, 2, 40)]
)
def test_pngs_are_drawn(tmp_path, num_heads, q_seq_len, kv_seq_len):
    path = tmp_path / "maps.png"
    weights = np.linspace(0, 1, num_heads * q_seq_len * kv_seq_len, dtype=np.float16)
    viz.save_heat_maps(
        path,
        weights.reshape(num_heads, q_seq_len, kv_seq_len),
        ["$x_1$"] * q_seq_len,  # no formula
        ["河\n"] * kv_seq_len,  # not in the font
        title="100 $ and 200 $",
    )
    image = imread(path)
    assert image.shape[0] > 150
    assert len(np.unique(image[..., 0])) > 20  # shades of red: not blank


@pytest.mark.parametrize("shape", [(5, 5), (0, 5, 5), (2, 5, 4)])
def test_pngs_need_a_shape_that_matches_the_words(tmp_path, shape):
    with pytest.raises(InvalidArgumentError, match=r"expected \(num_heads, queries, keys\)"):
        viz.save_heat_maps(tmp_path / "maps.png", np.zeros(shape), WORDS, WORDS)


def test_pngs_need_a_title_for_each_head(tmp_path):
    with pytest.raises(InvalidArgumentError, match="one for each of 2 heads; got 1"):
        viz.save_heat_maps(tmp_path / "m.png", np.zeros((2, 5, 5)), WORDS, WORDS, titles=["a"])


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(viz, "find_spec", lambda name: None)
    assert importlib.util.find_spec("rich")
    with pytest.raises(MissingExtraError, match=r"rich.*pip install 'polyhead\[viz\]'"):
        draw()
    with pytest.raises(MissingExtraError, match=r"matplotlib.*pip install 'polyhead\[viz\]'"):
        viz.save_heat_maps(tmp_path / "m.png", np.zeros((2, 5, 5)), WORDS, WORDS)


def test_grids_have_rows_and_columns_of_any_maps():
    rows = {"layer 0": {"head 0": WEIGHTS}, "layer 1": {"head 0": WEIGHTS[:2], "head 1": WEIGHTS}}
    axes = viz.draw_layer_grid(rows, label="score").axes
    assert [image.get_array().shape for image in axes[0].images] == [(5, 5), (2, 5), (5, 5)]
    assert axes[1].get_ylabel() == "score, power 1/2"
    extents = [image.get_extent() for image in axes[0].images]
    pitch = extents[1][3]
    corners = [(left / pitch, top / pitch) for left, _, _, top in extents]
    assert corners == [(0, 0), (0, 1), (1, 1)]


def test_grids_of_single_rows_are_as_low_as_these():
    figure = viz.draw_layer_grid({f"layer {n}": {"head 0": WEIGHTS[:1]} for n in range(3)})
    height = figure.get_size_inches()[1] * figure.dpi
    assert height < 400
    label = figure.axes[1].yaxis.label
    assert label.get_window_extent().height < height


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "expected at least one heat map"),
        ({"layer 0": {}}, "expected at least one heat map"),
        ({"layer 0": {"head 0": WEIGHTS[0]}}, r"expected \(queries, keys\)"),
        ({"layer 0": {"head 0": WEIGHTS[None]}}, r"expected \(queries, keys\)"),
    ],
)
def test_grids_of_nothing_are_refused(rows, message):
    with pytest.raises(InvalidArgumentError, match=message):
        viz.draw_layer_grid(rows)
