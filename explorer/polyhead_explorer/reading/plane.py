"""Planes in which hidden states have places, and how directions of states differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

__all__ = ["Plane", "directions", "nearest", "principal_plane", "turned"]


def directions(states: NDArray[np.floating]) -> Points:
    """Scale vectors, along the last axis, to length 1. Those of length 0 stay."""
    states = states.astype(np.float64)
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    return states / np.where(lengths > 0, lengths, 1)


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of directions."""

    centre: Points
    """(width)"""
    axes: Points
    """(2, width): orthonormal, or zeros where the vectors do not spread so far."""
    shares: Points
    """(2): how much of the vectors' variance lies along each axis."""

    def place(self, vectors: Points) -> Points:
        """Project directions: (..., width) -> (..., 2)."""
        return (vectors - self.centre) @ self.axes.T


def principal_plane(vectors: Points) -> Plane:
    """Fit the plane in which directions, (vectors, width), spread most (PCA)."""
    centre = vectors.mean(axis=0)
    offsets = vectors - centre
    # The vectors are fewer than their numbers in large models, so their products are the smaller
    # matrix.
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
    """Return 1 - cosine between each direction, (steps, width), and the one before: (steps).

    The first is 0.
    """
    before = np.concatenate([path[:1], path[:-1]])
    distances: Points = (1 - (path * before).sum(axis=-1)).clip(0)
    distances[0] = 0
    return distances


def nearest(vectors: Points, place: int) -> list[int]:
    """Return, for each step, which other vector is nearest by cosine; -1 if there is no other."""
    if vectors.shape[1] < 2:
        return [-1] * len(vectors)
    cosines = (vectors @ vectors[:, place, :, None])[..., 0]
    cosines[:, place] = -np.inf
    return [int(place) for place in cosines.argmax(axis=1)]
