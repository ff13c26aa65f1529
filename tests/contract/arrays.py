"""Arrays to ask about, and how near an answer must be to the float64 reference."""

from __future__ import annotations

import numpy as np


def draw(*shape, seed=3):
    """Draw embeddings."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_output(actual, expected):
    """Compare with the reference, within a share of its largest magnitude."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def assert_weights(actual, expected):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
