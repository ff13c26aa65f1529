"""Weights are fetched in bounded blocks, whose size changes nothing."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyhead_explorer.reading.groups import Groups
from polyhead_explorer.reading.matrices import MapLayout, layer_maps, layer_pair
from polyhead_explorer.reading.reading import Layer, Token

NUM_HEADS = 3


class FakeReading:
    """Random weights, and a note of how many were fetched at once."""

    def __init__(self, num_tokens: int, num_keys: int | None = None) -> None:
        """``num_keys``: of another text; None: the tokens are the keys."""
        rng = np.random.default_rng(num_tokens)
        size = num_tokens if num_keys is None else num_keys
        self.all = rng.random((NUM_HEADS, num_tokens, size)).astype(np.float32)
        self.tokens = (Token("a", "a", 0, 1),) * num_tokens
        self.keys = self.tokens if num_keys is None else (Token("b", "b", 0, 1),) * num_keys
        self.layers = (Layer("0", NUM_HEADS),)
        self.fetched = []

    async def weights(self, layer, selection):
        heads = selection.heads or range(NUM_HEADS)
        found = self.all[np.ix_(heads, np.atleast_1d(selection.queries))]
        self.fetched.append(found.shape)
        return found


def maps_of(reading, layout, **options):
    return asyncio.run(layer_maps(reading, 0, layout, **options))


@given(
    num_tokens=st.integers(1, 40),
    hidden=st.sets(st.integers(0, 39)),
    max_size=st.integers(1, 20),
    max_rows=st.integers(1, 50),
)
def test_rows_are_cut_between_groups_and_none_is_missed(num_tokens, hidden, max_size, max_rows):
    rows = Groups.of(num_tokens, hidden=hidden, max_size=max_size)
    blocks = [rows.tokens_of(groups) for groups in rows.blocks(max_rows)]
    np.testing.assert_array_equal(np.concatenate(blocks), rows.kept)
    largest = int(np.diff([*rows.starts, len(rows.kept)]).max())
    assert max(map(len, blocks)) <= max(max_rows, largest)


@pytest.mark.parametrize("max_block_bytes", [1, 400, 1600, 4000])
@pytest.mark.parametrize("renormalise", [False, True])
def test_blocks_of_any_size_give_the_same(max_block_bytes, renormalise):
    reading = FakeReading(20)
    layout = MapLayout.of(reading, hidden={0, 7}, renormalise=renormalise, max_size=7)
    at_once = maps_of(FakeReading(20), layout)
    in_blocks = maps_of(reading, layout, max_block_bytes=max_block_bytes)
    np.testing.assert_array_equal(in_blocks.maps, at_once.maps)
    np.testing.assert_allclose(in_blocks.received, at_once.received, rtol=1e-6)
    np.testing.assert_allclose(in_blocks.measures, at_once.measures, rtol=1e-6)
    assert len(reading.fetched) > 1
    rows_of_a_group = 3
    bound = max(max_block_bytes, rows_of_a_group * 20 * 4)
    assert max(4 * np.prod(shape) for shape in reading.fetched) <= bound


def test_measures_are_means_of_diagonals_and_of_the_first_column():
    reading = FakeReading(6)
    layout = MapLayout.of(reading, hidden={2}, max_size=2)
    kept = reading.all[np.ix_(range(NUM_HEADS), layout.rows.kept, layout.rows.kept)]
    previous, after, first, same = maps_of(reading, layout).measures
    np.testing.assert_allclose(previous, diagonal_mean(kept, -1), rtol=1e-6)
    np.testing.assert_allclose(after, diagonal_mean(kept, 1), rtol=1e-6)
    np.testing.assert_allclose(first, kept[:, 1:, 0].mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(same, diagonal_mean(kept, 0), rtol=1e-6)


def test_single_tokens_have_no_token_before_them():
    reading = FakeReading(1)
    layout = MapLayout.of(reading, max_size=48)
    measures = maps_of(reading, layout).measures
    assert (measures[:3] == 0).all()
    np.testing.assert_array_equal(measures[3], reading.all[:, 0, 0])


def diagonal_mean(weights, offset):
    return np.diagonal(weights, offset, axis1=1, axis2=2).mean(axis=1)


def test_heads_that_are_chosen_are_fetched_alone():
    reading = FakeReading(5)
    layout = MapLayout.of(reading, max_size=48)
    maps = maps_of(reading, layout, heads=[2])
    np.testing.assert_array_equal(maps.maps[0], reading.all[2])
    assert reading.fetched == [(1, 5, 5)]


def test_rows_without_weight_stay_zero_when_they_are_rescaled():
    reading = FakeReading(4)
    reading.all[:, 1] = [1, 0, 0, 0]
    layout = MapLayout.of(reading, hidden={0}, renormalise=True, max_size=48)
    maps = maps_of(reading, layout)
    assert (maps.maps[:, 0] == 0).all()
    np.testing.assert_allclose(maps.maps[:, 1:].sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("max_block_bytes", [1, 200, 1 << 20])
def test_keys_of_another_text_have_groups_of_their_own(max_block_bytes):
    reading = FakeReading(6, num_keys=9)
    layout = MapLayout.of(reading, hidden={0}, hidden_keys={8}, renormalise=True, max_size=4)
    found = maps_of(reading, layout, max_block_bytes=max_block_bytes)
    rows = reading.all[:, 1:, :8]
    rows = rows / rows.sum(axis=-1, keepdims=True)
    assert found.maps.shape == (NUM_HEADS, 4, 4)
    np.testing.assert_allclose(found.maps[:, 3, 1], rows[:, 3:, 2:4].max(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.received, reading.all[:, 1:].mean(axis=1), rtol=1e-6)
    [first] = found.measures
    np.testing.assert_allclose(first, rows[:, :, 0].mean(axis=1), rtol=1e-6)
    pair = asyncio.run(layer_pair(reading, 0, layout, 2, 7))
    np.testing.assert_allclose(pair, rows[:, 1, 7], rtol=1e-6)
