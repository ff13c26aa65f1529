"""The tokens along one side of a map, in groups that share a row or a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

__all__ = ["Groups"]


@dataclass(frozen=True, slots=True)
class Groups:
    """The shown tokens along one side of a map, and their groups."""

    kept: NDArray[np.intp]
    """The tokens that are not hidden, in order. Never empty."""
    starts: NDArray[np.intp]
    """The index in `kept` at which each group begins. A group has one row or column."""

    @classmethod
    def of(cls, num_tokens: int, *, hidden: Collection[int], max_size: int) -> Groups:
        """Hide tokens, and form at most ``max_size`` groups of the others.

        If all tokens are hidden, all are shown.
        """
        kept = np.setdiff1d(np.arange(num_tokens), list(hidden))
        if not len(kept):
            kept = np.arange(num_tokens)
        size = min(len(kept), max_size)
        return cls(kept, np.arange(size) * len(kept) // size)

    @property
    def size(self) -> int:
        """Number of groups."""
        return len(self.starts)

    @property
    def all_groups(self) -> slice:
        """All groups."""
        return slice(0, self.size)

    def blocks(self, max_tokens: int) -> Iterator[slice]:
        """Yield slices of the groups, each of at most ``max_tokens`` tokens or of one group."""
        ends = [*self.starts[1:].tolist(), len(self.kept)]
        first = 0
        for last in range(len(ends)):
            is_full = last + 1 == len(ends) or ends[last + 1] - self.starts[first] > max_tokens
            if is_full:
                yield slice(first, last + 1)
                first = last + 1

    def tokens_of(self, groups: slice) -> NDArray[np.intp]:
        """Return the tokens of some groups."""
        end = self.starts[groups.stop] if groups.stop < self.size else len(self.kept)
        return self.kept[self.starts[groups.start] : end]

    def largest(
        self, weights: NDArray[np.float32], groups: slice, axis: int
    ) -> NDArray[np.float32]:
        """Return the largest weight of each group along an axis, which has the groups' tokens."""
        if self.size == len(self.kept):
            return weights
        starts = self.starts[groups] - self.starts[groups.start]
        return np.maximum.reduceat(weights, starts, axis=axis)
