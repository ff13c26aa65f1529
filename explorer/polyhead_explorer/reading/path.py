"""How a token moves through the layers: its hidden states in a plane, before and after each."""

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

__all__ = ["Followed", "Path", "lay_out"]

_MAX_STATES = 1024
"""Most hidden states of a text that are taken."""
_MAX_FITTED = 512
"""Most of them that a plane is fitted to: twice as many take ten times as long, and seconds."""


@dataclass(slots=True)
class Followed:
    """Tokens of a text whose states are taken, step by step, and the one that is followed."""

    reading: Reading
    token: int
    tokens: list[int]
    """Which tokens' states are taken, ``token`` among them."""
    _states: list[NDArray[np.float64]] = field(default_factory=list)

    @classmethod
    def among_others(cls, reading: Reading, token: int) -> Followed:
        """Take other tokens too: all, or so many as can be drawn, evenly spread."""
        num_tokens = len(reading.tokens)
        most = max(_MAX_STATES // (len(reading.layers) + 1), 2)
        tokens = set(range(num_tokens))
        if num_tokens > most:
            tokens = {*np.linspace(0, num_tokens - 1, most - 1).astype(int).tolist(), token}
        return cls(reading, token, sorted(tokens))

    @classmethod
    def anchor(cls, reading: Reading, word: str) -> Followed:
        """Follow the last token of a word that is read alone. Raises InvalidArgumentError."""
        ordinary = [i for i, token in enumerate(reading.tokens) if not token.is_special]
        if not ordinary:
            raise InvalidArgumentError(f"{word!r} cannot be an anchor: it has no token")
        return cls(reading, ordinary[-1], [ordinary[-1]])

    async def take(self, step: int) -> None:
        """Take what enters a layer, or leaves the last one. Raises PolyheadError."""
        states = np.asarray(await self.reading.states(step))
        self._states.append(directions(states[self.tokens]))

    @property
    def place(self) -> int:
        """Where the token that is followed is among the tokens."""
        return self.tokens.index(self.token)

    @property
    def directions(self) -> NDArray[np.float64]:
        """(steps, tokens, width): all states that were taken, scaled to length 1."""
        return np.stack(self._states)


@dataclass(frozen=True, slots=True)
class Path:
    """Where states are in a plane. A step is before a layer; the last is after the last one."""

    tokens: list[int]
    """Which tokens there are."""
    nearest: list[int]
    """For each step the token that is nearest to the one that is followed; -1: there is none."""
    shares: list[float]
    """How much of the states' variance lies along each axis; empty for anchors."""
    points: NDArray[np.float64]
    """(steps, tokens, 2)"""
    other_path: NDArray[np.float64]
    """(steps, 2): the token that is followed in the other text; no step without one."""
    turned: NDArray[np.float64]
    """(steps): 1 - cosine between the state at a step and at the one before."""

    def to_header(self) -> dict[str, Any]:
        """Return what is not an array of numbers."""
        return {"tokens": self.tokens, "nearest": self.nearest, "shares": self.shares}


def lay_out(
    texts: Sequence[Followed], anchors: Sequence[Followed], *, of_path: bool = False
) -> Path:
    """Place the states of one text or of two in a plane.

    With two anchors a place is the cosine to each of them at the same step. Without, the plane is
    that in which the states of all texts and steps spread most (PCA), or with ``of_path`` those of
    the tokens that are followed.
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
            states[:, text.place] if of_path else states
            for text, states in zip(texts, vectors, strict=True)
        ]
        every = np.concatenate([states.reshape(-1, width) for states in fitted])
        chosen = np.linspace(0, len(every) - 1, min(len(every), _MAX_FITTED)).astype(int)
        plane = principal_plane(every[chosen])
        flips = _flips(plane.place(vectors[0])[:, first.place])
        points = [plane.place(text) * flips for text in vectors]
        shares = plane.shares.tolist()
    near = nearest(vectors[0], first.place)
    return Path(
        tokens=first.tokens,
        nearest=[first.tokens[place] if place >= 0 else -1 for place in near],
        shares=shares,
        points=points[0],
        other_path=points[1][:, texts[1].place] if len(texts) > 1 else np.zeros((0, 2)),
        turned=turned(vectors[0][:, first.place]),
    )


def _flips(path: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return signs of axes by which a path leads to the right and up: PCA leaves them open."""
    return np.where(path[-1] < path[0], -1.0, 1.0)
