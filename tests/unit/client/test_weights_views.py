"""result.plot and result.top: labels follow the selection, and results name tokens."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead import AttentionResult, InvalidArgumentError, MissingExtraError, Weights, viz
from polyhead._viz.token_views import heat_grid
from polyhead.types import Execution

TOKENS = ["[CLS]", "the", "river", "##bank", "the", "Ġfish"]
EXECUTION = Execution(
    model="m", model_version=1, provider="p", kernel="explicit", queue_ms=0, compute_ms=0,
    batch_size=1,
)  # fmt: skip


def make(weights, *, top_keys=None, num_queries=6, num_keys=6, is_self=True, **selection):
    """A result as the client makes it: the selection's heads and queries are tuples."""
    return AttentionResult(
        output=None,
        attn_weights=None if weights is None else np.asarray(weights, np.float32),
        top_keys=None if top_keys is None else np.asarray(top_keys, np.int32),
        selection=Weights(**selection),
        q_seq_len=num_queries,
        kv_seq_len=num_keys,
        is_self_attention=is_self,
        request_id="",
        execution=EXECUTION,
    )


def full(batch_size=1, num_heads=2, num_queries=6, num_keys=6):
    """Weights whose digits are their indices: batch, head, query, key."""
    axes = np.indices((batch_size, num_heads, num_queries, num_keys))
    return np.tensordot([1000, 100, 10, 1], axes, 1)


def grid_of(result, tokens=TOKENS, head=None, batch=0, key_tokens=None):
    return heat_grid(result, tokens, head=head, batch=batch, key_tokens=key_tokens)


def test_all_heads_of_one_sequence():
    grid = grid_of(make(full(batch_size=3)), batch=2)
    assert grid.titles == ["head 0", "head 1"]
    assert grid.queries == grid.keys == TOKENS
    assert grid.label == "attention weight"
    np.testing.assert_array_equal(grid.weights, full(batch_size=3)[2])


def test_labels_follow_the_selection():
    weights = full()[:, :, [5, 2]]
    result = make(weights, heads=(7, 3), queries=(5, 2), stage="scores")
    grid = grid_of(result, head=3)
    assert grid.titles == ["head 3"]
    assert grid.queries == ["Ġfish", "river"]
    assert grid.keys == TOKENS
    assert grid.label == "attention score"
    np.testing.assert_array_equal(grid.weights, weights[0, 1:])


@pytest.mark.parametrize(
    ("heads", "title"), [((), "mean of all heads"), ((4, 1), "mean of heads 4, 1")]
)
def test_means_over_heads_are_titled_so(heads, title):
    result = make(full(num_heads=1), heads=heads, average_heads=True)
    assert grid_of(result).titles == [title]
    with pytest.raises(InvalidArgumentError, match="head: these weights are the mean over heads"):
        grid_of(result, head=4)


def test_top_k_shows_the_keys_that_occur_and_leaves_the_rest_empty():
    result = make(
        [[[[0.7, 0.2], [0.5, 0.4]]]], top_keys=[[[[5, 1], [2, 5]]]], queries=(0, 3), top_k=2
    )
    grid = grid_of(result)
    assert grid.keys == ["the", "river", "Ġfish"]
    np.testing.assert_array_equal(
        grid.weights, np.float32([[[0.2, np.nan, 0.7], [np.nan, 0.5, 0.4]]])
    )


def test_tokens_of_cross_attention_label_only_the_queries():
    result = make(full(num_keys=4), num_keys=4, is_self=False)
    assert grid_of(result).keys == ["0", "1", "2", "3"]
    assert grid_of(result, key_tokens=list("abcd")).keys == list("abcd")
    # of the same length by chance
    assert grid_of(make(full(), is_self=False)).keys == list("012345")


def test_positions_are_the_default_labels():
    assert grid_of(make(full()), None).queries == list("012345")


REFUSED = {
    "no weights": (make(None), {}, "no attention weights: ask for them with need_weights=True"),
    "too few tokens": (make(full()), {"tokens": TOKENS[1:]}, "tokens: expected 6 .* got 5"),
    "one str": (make(full()), {"tokens": "abcdef"}, "tokens: expected a sequence of tokens; got"),
    "tokens of the selection": (
        make(full()[:, :, 1:2], queries=(1,)),
        {"tokens": ["the"]},
        "as long as query .*; got 1",
    ),
    "key tokens": (make(full()), {"key_tokens": ["a"]}, "key_tokens: expected 6 .*as key .* got 1"),
    "head": (make(full(), heads=(7, 3)), {"head": 1}, "head: expected one of 7, 3; got 1"),
    "batch": (make(full()), {"batch": 1}, "batch: expected 0 to below 1 sequences; got 1"),
    "batch negative": (make(full()), {"batch": -1}, "got -1"),
}


@pytest.mark.parametrize(("result", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_views_are_refused(result, arguments, message):
    arguments = {"tokens": TOKENS, **arguments}
    with pytest.raises(InvalidArgumentError, match=message):
        result.plot(**arguments)
    with pytest.raises(InvalidArgumentError, match=message):
        result.top(word=1, **arguments)


def test_plot_returns_a_figure_that_notebooks_show():
    figure = make(full(), stage="masked").plot(TOKENS)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["head 0", "head 1"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == TOKENS
    assert figure.axes[-1].get_ylabel() == "masked attention score"
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_plot_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setattr(viz, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'polyhead\[viz\]'"):
        make(full()).plot(TOKENS)


def attending(*rows):
    """One head that attends to six keys with these weights, from as many queries."""
    return [[list(rows)]]


def test_top_returns_the_keys_that_a_token_attends_to():
    weights = np.full((1, 2, 6, 6), 0.01)
    weights[0, :, 5] = [[0.1, 0, 0.5, 0.3, 0.1, 0], [0.1, 0, 0.1, 0.7, 0.1, 0]]
    result = make(weights)
    assert result.top(TOKENS, "Ġfish", k=2) == [
        ("##bank", pytest.approx(0.5)),
        ("river", pytest.approx(0.3)),
    ]
    assert [token for token, _ in result.top(TOKENS, "fish", k=1, head=0)] == ["river"]
    # ties are broken by the lower key, and k is limited to the number of keys
    everything = result.top(TOKENS, 5, k=None)
    assert [token for token, _ in everything] == ["##bank", "river", "[CLS]", "the", "the", "Ġfish"]
    assert result.top(TOKENS, 5, k=99) == everything


def test_top_works_on_selected_rows():
    result = make(attending([0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]), queries=(4, 0))
    assert result.top(TOKENS, "[CLS]", k=1) == [("[CLS]", 1.0)]
    # it occurs twice, but only once among the selected rows
    assert result.top(TOKENS, "the", k=1) == [("river", 1.0)]


def test_top_of_top_k():
    weights = np.array([[[[0.5, 0.25]], [[0.75, 0.125]]]])
    top_keys = [[[[3, 1]], [[1, 0]]]]
    result = make(weights, top_keys=top_keys, queries=(2,), top_k=2)
    assert result.top(TOKENS, "river", head=0) == [("##bank", 0.5), ("the", 0.25)]
    # mean over heads: a key that is not among a head's top_k counts as 0
    assert result.top(TOKENS, "river") == [("the", 0.5), ("##bank", 0.25), ("[CLS]", 0.0625)]
    scores = make(weights, top_keys=top_keys, queries=(2,), top_k=2, stage="scores")
    with pytest.raises(InvalidArgumentError, match=r"head: .*Weights\(average_heads=True\)"):
        scores.top(TOKENS, "river")
    assert scores.top(TOKENS, "river", head=1, k=1) == [("the", 0.75)]


def test_top_names_keys_by_their_own_tokens():
    result = make(full(num_keys=4), num_keys=4, is_self=False)
    assert result.top(TOKENS, 0, k=1, head=0) == [("3", 3.0)]
    assert result.top(TOKENS, 0, k=1, head=0, key_tokens=list("abcd")) == [("d", 3.0)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("the", "'the' occurs at 1, 4: give one of these indices instead"),
        ("rivers", "expected one of the tokens, such as 'river'; got 'rivers'"),
        ("xyz", r"such as '\[CLS\]', 'the', 'river', '##bank', 'Ġfish'; got 'xyz'"),
        (6, "an index from 0 to below 6; got 6"),
        (-1, "got -1"),
        (True, "got True"),
        (None, "got None"),
    ],
)
def test_unknown_or_ambiguous_words_are_refused(word, message):
    with pytest.raises(InvalidArgumentError, match=f"word: .*{message}") as caught:
        make(full()).top(TOKENS, word)
    assert list(caught.value.fields) == ["word"]


def test_words_that_were_not_selected_are_refused():
    result = make(full()[:, :, 4:], queries=(4, 5))
    message = r"'bank' is query 3, and these weights are of 4, 5: ask with .*Weights\(queries=3\)"
    with pytest.raises(InvalidArgumentError, match=message):
        result.top(TOKENS, "bank")


@pytest.mark.parametrize("k", [0, -1, 1.5])
def test_k_is_a_number_of_keys(k):
    with pytest.raises(InvalidArgumentError, match="k: expected a whole number from 1"):
        make(full()).top(TOKENS, 0, k=k)
