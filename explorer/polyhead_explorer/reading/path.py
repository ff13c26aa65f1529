"""The path of a token through the layers: its hidden states as points of a plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from polyhead.errors import InvalidArgumentError
from polyhead_explorer.reading.plane import directions, nearest, principal_plane, turned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from polyhead_explorer.reading.reading import Reading

__all__ = ["FollowedToken", "Path", "lay_out"]

_MAX_STATES = 1024
"""Most hidden states of a text that are placed."""
_MAX_FITTED = 512
"""Most states that the plane is fitted to. Twice as many take ten times as long: seconds."""


@dataclass(slots=True)
class FollowedToken:
    """A token that is followed through the layers, and the other tokens that are drawn with it."""

    reading: Reading
    token: int
    tokens: list[int]
    """The drawn tokens, including ``token``."""
    _states: list[NDArray[np.float64]] = field(default_factory=list)

    @classmethod
    def among_others(cls, reading: Reading, token: int) -> FollowedToken:
        """Draw other tokens too: all, or evenly spread ones if there are too many."""
        num_tokens = len(reading.tokens)
        max_tokens = max(_MAX_STATES // (len(reading.layers) + 1), 2)
        tokens = set(range(num_tokens))
        if num_tokens > max_tokens:
            tokens = {*np.linspace(0, num_tokens - 1, max_tokens - 1).astype(int).tolist(), token}
        return cls(reading, token, sorted(tokens))

    @classmethod
    def anchor(cls, reading: Reading, word: str) -> FollowedToken:
        """Follow the last token of a text that is this word. Raises InvalidArgumentError."""
        ordinary = [i for i, token in enumerate(reading.tokens) if not token.is_special]
        if not ordinary:
            raise InvalidArgumentError(f"{word!r} cannot be an anchor: it has no token")
        return cls(reading, ordinary[-1], [ordinary[-1]])

    async def add_states(self, step: int) -> None:
        """Fetch the states before a layer, or after the last one. Raises PolyheadError."""
        states = np.asarray(await self.reading.states(step))
        self._states.append(directions(states[self.tokens]))

    @property
    def index(self) -> int:
        """The index of the followed token in ``tokens``."""
        return self.tokens.index(self.token)

    @property
    def directions(self) -> NDArray[np.float64]:
        """(steps, tokens, width): all fetched states, scaled to length 1."""
        return np.stack(self._states)


@dataclass(frozen=True, slots=True)
class Path:
    """States as points of a plane. A step is before a layer; the last step is after the last."""

    tokens: list[int]
    """The drawn tokens."""
    nearest: list[int]
    """For each step, the token nearest to the followed one; -1 if there is no other token."""
    shares: list[float]
    """The share of the states' variance along each axis; empty for anchors."""
    points: NDArray[np.float64]
    """(steps, tokens, 2)"""
    other_path: NDArray[np.float64]
    """(steps, 2): the followed token of the other text; no steps if there is no other text."""
    turned: NDArray[np.float64]
    """(steps): 1 - cosine between the state at a step and the state at the previous step."""

    def to_header(self) -> dict[str, Any]:
        """Return the fields that are not arrays."""
        return {"tokens": self.tokens, "nearest": self.nearest, "shares": self.shares}


def lay_out(
    texts: Sequence[FollowedToken], anchors: Sequence[FollowedToken], *, of_path: bool = False
) -> Path:
    """Return the states of one text, or of two, as points of a plane.

    With two anchors, the coordinates of a point are its cosines to the anchors at the same step.
    Without anchors, the axes are the principal components (PCA) of the states of all texts and
    steps, or with ``of_path`` those of the followed tokens alone.
    """
    first = texts[0]
    vectors = [text.directions for text in texts]
    shares: list[float] = []
    if anchors:
        axes = np.concatenate([anchor.directions for anchor in anchors], axis=1)
        points = [text @ axes.swapaxes(1, 2) for text in vectors]
    else:
        width = vectors[0].shape[-1]
        fitted = [
            states[:, text.index] if of_path else states
            for text, states in zip(texts, vectors, strict=True)
        ]
        all_states = np.concatenate([states.reshape(-1, width) for states in fitted])
        chosen = np.linspace(0, len(all_states) - 1, min(len(all_states), _MAX_FITTED)).astype(int)
        plane = principal_plane(all_states[chosen])
        flips = _flips(plane.place(vectors[0])[:, first.index])
        points = [plane.place(text) * flips for text in vectors]
        shares = plane.shares.tolist()
    near = nearest(vectors[0], first.index)
    return Path(
        tokens=first.tokens,
        nearest=[first.tokens[index] if index >= 0 else -1 for index in near],
        shares=shares,
        points=points[0],
        other_path=points[1][:, texts[1].index] if len(texts) > 1 else np.zeros((0, 2)),
        turned=turned(vectors[0][:, first.index]),
    )


def _flips(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return signs of the axes, so that the path leads right and up. PCA does not define them."""
    return np.where(path[-1] < path[0], -1.0, 1.0)
