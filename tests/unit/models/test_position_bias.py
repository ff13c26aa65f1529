"""Biases by distance, compared with those of transformers in tests/data/positions.npz."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyhead_models.position_bias import alibi_slopes, bias_by_distance, relative_buckets

DATA = Path(__file__).parents[2] / "data" / "positions.npz"
DISTANCES = np.arange(-300, 301)


def recorded(prefix):
    with np.load(DATA) as arrays:
        return {name: arrays[name] for name in arrays.files if name.startswith(prefix)}


@pytest.mark.parametrize(("name", "expected"), recorded("buckets/").items())
def test_buckets_are_t5s(name, expected):
    _, num_buckets, max_distance, direction = name.split("/")
    buckets = relative_buckets(
        DISTANCES, int(num_buckets), int(max_distance), is_causal=direction == "causal"
    )
    np.testing.assert_array_equal(buckets, expected)


def test_t5s_own_sizes_are_recorded():
    assert {"buckets/32/128/causal", "buckets/32/128/both"} <= recorded("buckets/").keys()


@pytest.mark.parametrize("model", ["mpt", "bloom"])
def test_slopes_equal_those_of_mpt_and_bloom(model):
    """Compare slopes for 1, 2, … 64 heads; BLOOM computes them from rounded powers."""
    expected = recorded("alibi/")[f"alibi/{model}"]
    slopes = np.concatenate([alibi_slopes(num_heads) for num_heads in range(1, 65)])
    assert slopes.dtype == np.float32
    np.testing.assert_allclose(slopes, expected, rtol=0 if model == "mpt" else 1e-6, atol=0)


def test_slopes_of_the_paper():
    """Press et al., section 3: 1/2, 1/4, … 1/256 for 8 heads, and values between them for 16."""
    np.testing.assert_array_equal(alibi_slopes(8), 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(alibi_slopes(16), 0.5 ** (np.arange(1, 17) / 2))


@given(st.booleans(), st.integers(2, 40), st.integers(1, 100), st.integers(0, 99))
def test_distances_spread_into_columns(is_causal, half, beyond, seed):
    num_buckets = half if is_causal else 2 * half
    max_distance = half // 2 + beyond
    table = np.random.default_rng(seed).standard_normal((num_buckets, 3)).astype(np.float32)
    spread = bias_by_distance(table, max_distance, is_causal=is_causal)
    assert spread.shape == (3, 2 * max_distance + 1)
    assert spread.dtype == np.float32

    distances = np.arange(-max_distance - 50, max_distance + 51)
    buckets = relative_buckets(distances, num_buckets, max_distance, is_causal=is_causal)
    assert buckets.min() == 0
    columns = np.clip(distances, -max_distance, max_distance) + max_distance
    np.testing.assert_array_equal(spread[:, columns], table[buckets].T)


@given(st.booleans(), st.integers(2, 40), st.integers(1, 100))
def test_buckets_grow_with_distance(is_causal, half, beyond):
    num_buckets = half if is_causal else 2 * half
    behind = -np.arange(half // 2 + beyond + 9)
    sizes = num_buckets, half // 2 + beyond
    buckets = relative_buckets(behind, *sizes, is_causal=is_causal)
    assert (np.diff(buckets) >= 0).all()
    assert buckets[0] == 0
    assert buckets[-1] == half - 1
    ahead = relative_buckets(-behind[1:], *sizes, is_causal=is_causal)
    np.testing.assert_array_equal(ahead, 0 if is_causal else buckets[1:] + half)
