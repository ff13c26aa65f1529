"""Planes of directions, against what NumPy's own decomposition says."""

from __future__ import annotations

import numpy as np
import pytest

from polyhead_explorer.reading.plane import directions, nearest, principal_plane, turned


@pytest.mark.parametrize("shape", [(5, 30), (30, 5)])
def test_the_plane_is_that_of_the_largest_singular_values(shape):
    vectors = directions(np.random.default_rng(1).standard_normal(shape))
    plane = principal_plane(vectors)
    centred = vectors - vectors.mean(axis=0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.diag(plane.axes @ axes[:2].T)), 1, rtol=1e-9)
    np.testing.assert_allclose(plane.shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(plane.place(vectors), centred @ plane.axes.T, rtol=1e-9)


def test_vectors_that_do_not_spread_have_an_axis_of_zeros():
    line = np.outer([1.0, 2.0, 4.0], [3.0, 4.0, 0.0])
    plane = principal_plane(line)
    np.testing.assert_allclose(plane.shares, [1, 0])
    assert not plane.axes[1].any()
    assert (principal_plane(np.ones((4, 3))).shares == 0).all()
    assert (principal_plane(np.ones((1, 3))).place(np.ones(3)) == 0).all()


def test_directions_have_length_one_and_zeros_stay():
    found = directions(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_turning_is_told_by_cosines():
    path = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(turned(path), [0, 0, 1, 2])


def test_the_nearest_is_another_one():
    vectors = directions(np.array([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]] * 2))
    vectors[1] = vectors[1, [0, 2, 1]]
    assert nearest(vectors, 0) == [1, 2]
    assert nearest(vectors[:, :1], 0) == [-1, -1]
