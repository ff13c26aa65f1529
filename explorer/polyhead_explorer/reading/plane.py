"""Planes for hidden states, and differences between the directions of states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

__all__ = ["Plane", "directions", "nearest", "principal_plane", "turned"]


def directions(states: NDArray[np.floating]) -> Points:
    """Scale vectors, along the last axis, to length 1. Zero vectors stay zero."""
    states = states.astype(np.float64)
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1)


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of directions."""

    centre: Points
    """(width)"""
    axes: Points
    """(2, width): orthonormal; zeros if the vectors have fewer dimensions."""
    shares: Points
    """(2): the share of the vectors' variance along each axis."""

    def place(self, vectors: Points) -> Points:
        """Project directions: (..., width) -> (..., 2)."""
        return (vectors - self.centre) @ self.axes.T


def principal_plane(vectors: Points) -> Plane:
    """Fit the plane of the first two principal components of directions: (vectors, width)."""
    centre = vectors.mean(axis=0)
    offsets = vectors - centre
    # Large models have fewer vectors here than numbers in a vector, so the matrix of products
    # between vectors is the smaller one.
    variances, mixtures = np.linalg.eigh(offsets @ offsets.T)
    variances, mixtures = variances[::-1][:2], mixtures[:, ::-1][:, :2]
    total = max(float(np.square(offsets).sum()), np.finfo(float).tiny)
    axes = np.zeros((2, vectors.shape[1]))
    shares = np.zeros(2)
    for index, variance in enumerate(variances):
        if variance > total * 1e-9:
            axes[index] = mixtures[:, index] @ offsets / np.sqrt(variance)
            shares[index] = variance / total
    return Plane(centre, axes, shares)


def turned(path: Points) -> Points:
    """Return 1 - cosine between each direction, (steps, width), and the previous one: (steps).

    The first number is 0.
    """
    previous = np.concatenate([path[:1], path[:-1]])
    distances: Points = (1 - (path * previous).sum(axis=-1)).clip(0)
    distances[0] = 0
    return distances


def nearest(vectors: Points, index: int) -> list[int]:
    """Return, for each step, the index of the other vector with the largest cosine; -1 for none."""
    if vectors.shape[1] < 2:
        return [-1] * len(vectors)
    cosines = (vectors @ vectors[:, index, :, None])[..., 0]
    cosines[:, index] = -np.inf
    return [int(other) for other in cosines.argmax(axis=1)]
