"""A token's path through the layers, against the server's hidden states."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_page import ExplorerError

RIVER = "Tom is going to fish at the river bank."
MONEY = "Tom is going to the bank to deposit money."
BANK, OTHER_BANK = 9, 6
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}


def ask(page, **fields):
    """The path, after a frame for each step."""
    *steps, (header, arrays) = page.ask(
        "path", **{"model": "bert", "text": RIVER, "query": BANK} | fields
    )
    assert [step["step"] for step, _ in steps] == list(range(len(arrays["points"])))
    return header, arrays


@pytest.fixture(scope="module")
def states(client):
    """Directions of a text's hidden states: (steps, tokens, width)"""

    def of(text):
        found = client.forward(text, model="bert", need_hidden_states=True).hidden_states
        stacked = np.concatenate([found[step] for step in range(3)]).astype(np.float64)
        return stacked / np.linalg.norm(stacked, axis=-1, keepdims=True)

    return of


def test_anchors_are_words_that_are_read_alone(page, states):
    header, arrays = ask(page, anchor_x="river", anchor_y="money")
    river, money, text = states("river")[:, 1], states("money")[:, 1], states(RIVER)
    expected = np.stack([np.einsum("std,sd->st", text, word) for word in (river, money)], -1)
    np.testing.assert_allclose(arrays["points"], expected, **ROUNDING)
    assert header["tokens"] == list(range(12))
    assert header["shares"] == []


def test_principal_components_keep_as_much_of_the_distances_as_a_plane_can(page, states):
    header, arrays = ask(page)
    vectors = states(RIVER).reshape(36, -1)
    centred = vectors - vectors.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(header["shares"], values[:2] ** 2 / (values**2).sum(), **ROUNDING)
    points = arrays["points"].reshape(36, 2)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), values[:2], **ROUNDING)
    path = arrays["points"][:, BANK]
    assert (path[-1] >= path[0]).all()


def test_the_plane_can_be_that_of_the_path(page, states):
    header, arrays = ask(page, of_path=True)
    path = states(RIVER)[:, BANK]
    values = np.linalg.svd(path - path.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(header["shares"], values[:2] ** 2 / (values**2).sum(), **ROUNDING)
    lengths = np.linalg.norm(arrays["points"][:, BANK], axis=0)
    np.testing.assert_allclose(lengths, values[:2], **ROUNDING)


def test_both_texts_are_in_one_plane(page, states):
    _, arrays = ask(page, other=MONEY, other_query=OTHER_BANK)
    both = np.concatenate([states(RIVER).reshape(36, -1), states(MONEY).reshape(36, -1)])
    centred = both - both.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    expected = (states(MONEY)[:, OTHER_BANK] - both.mean(axis=0)) @ axes[:2].T
    np.testing.assert_allclose(np.abs(arrays["other_path"]), np.abs(expected), **ROUNDING)


def test_the_nearest_token_and_the_turn_are_told(page, states):
    header, arrays = ask(page)
    text = states(RIVER)
    cosines = np.einsum("std,sd->st", text, text[:, BANK])
    cosines[:, BANK] = -1
    assert header["nearest"] == cosines.argmax(axis=1).tolist()
    turns = 1 - np.einsum("sd,sd->s", text[1:, BANK], text[:-1, BANK])
    np.testing.assert_allclose(arrays["turned"], [0, *turns], **ROUNDING)


def test_a_block_has_a_path_of_two_steps(page):
    fields = {"model": "river-bank", "query": 8, "anchor_x": "river", "anchor_y": "money"}
    _, arrays = ask(page, **fields)
    (before_x, before_y), (after_x, after_y) = arrays["points"][:, 8]
    assert before_x == pytest.approx(before_y, abs=0.2)
    assert after_x > before_x
    assert after_y < before_y
    assert arrays["other_path"].shape == (0, 2)


def test_many_tokens_are_represented_by_some(page):
    text = " ".join([RIVER] * 200)
    fields = {"model": "river-bank", "text": text, "query": 1001}
    header, arrays = ask(page, **fields)
    assert len(header["tokens"]) <= 513
    assert 1001 in header["tokens"]
    assert {0, 1999} <= set(header["tokens"])
    assert arrays["points"].shape == (2, len(header["tokens"]), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": 12}, "query: expected a number from 0 to 11"),
        ({"anchor_x": "river"}, "anchor_y: expected a text"),
        ({"anchor_x": 7}, "anchor_x: expected a text"),
        ({"other": MONEY}, "other_query: expected a number from 0 to 11"),
    ],
)
def test_what_cannot_be_followed_is_said_in_words(page, fields, message):
    with pytest.raises(ExplorerError, match=message):
        ask(page, **fields)
