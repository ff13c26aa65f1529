"""Some heads' attention weights over one sentence, to be printed or saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyhead import viz

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

__all__ = ["HeatMaps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeatMaps:
    """A picture of one sentence: a heat map for each head."""

    title: str
    """What the whole picture shows."""
    words: Sequence[str]
    """The words that attend and are attended to."""
    attn_weights: NDArray[np.float32]
    """(heads, words, words)."""
    names: Sequence[str]
    """What stands over each head's map."""

    def show(self, console: Console) -> None:
        """Print them, one below the other."""
        for name, weights in zip(self.names, self.attn_weights, strict=True):
            console.print()
            viz.print_heat_map(weights, self.words, self.words, title=name, console=console)

    def save(self, path: Path) -> None:
        """Save them side by side as PNG. Raises OSError if the file system refuses."""
        viz.save_heat_maps(
            path, self.attn_weights, self.words, self.words, titles=self.names, title=self.title
        )
